"""Automatic interpretability within an evaluation, by a local labeller that names the word that examples mark."""

from dataclasses import replace
from typing import Any

import pytest

from app.errors import Unprocessable
from app.pipeline.checks import check_evaluation
from app.pipeline.evaluate import EVALUATE, EvaluateParams
from app.pipeline.index import IndexParams
from app.pipeline.stages import SUGGESTION
from app.pipeline.train import TrainParams
from app.queries.saes import get_sae
from app.queries.suggestions import live_features, suggested_texts
from app.runs.job_context import JobContext
from app.services.interpretability import interpretability_verdict, read_interpretability
from tests.app.pipeline.running import run_to_end, submit
from tests.llm_server import LlmServer, llm_server, marked_word
from tests.tiny import CORPUS_FILE

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
PARAMS = EvaluateParams(sae=SAE, predictions=64, interpret=6)


def asking(ctx: JobContext, server: LlmServer, **changes: Any) -> JobContext:
    own = {"llm_url": server.url, "llm_model": "small", **changes}
    return replace(ctx, settings=ctx.settings.model_copy(update=own))


@pytest.fixture
async def indexed(ctx: JobContext, training: TrainParams) -> None:
    """An SAE with an index."""
    await run_to_end(ctx, "train", training)
    await run_to_end(ctx, "index", IndexParams(sae=(SAE,), corpus=str(CORPUS_FILE), length=32))


async def test_labels_of_some_features_are_tested_and_kept_with_the_sae(ctx: JobContext, indexed: None) -> None:
    async with llm_server(marked_word) as server:
        own = asking(ctx, server, llm_price_in=1.0, llm_price_out=1.0)
        async with ctx.sessions() as session:
            cost = await check_evaluation(session, own.settings, PARAMS)
        run = await run_to_end(own, "evaluate", PARAMS)
        asked = len(server.requests)
        again = await run_to_end(own, "evaluate", PARAMS)
        assert len(server.requests) == asked, "an answer is paid for once"
        other = await run_to_end(own, "evaluate", PARAMS.model_copy(update={"seed": 1}))
    assert cost.requests == 6 * 5 and cost.dollars
    async with ctx.sessions() as session:
        detail = await get_sae(session, SAE)
        assert detail is not None
        live = await live_features(session, detail)
        suggested = await suggested_texts(session, detail.id, live)
    assert run.result is not None and again.result is not None and other.result is not None
    found = run.result["interpretability"]
    assert (found["model"], found["live"], found["features"], found["seed"]) == ("small", len(live), 6, 0)
    assert 2 <= found["detection_labels"] <= found["suggested"] <= 6
    low, high = found["detection_interval"]
    assert 0 <= low <= found["detection"] <= high <= 1
    low, high = found["detection_beyond_floor_interval"]
    assert low <= found["detection_beyond_floor"] <= high
    assert found == again.result["interpretability"]
    assert other.result["interpretability"]["seed"] == 1
    assert detail.metrics["interpretability"] == other.result["interpretability"]
    assert 6 <= len(suggested) <= 12, "two draws of six; their labels are suggestions"
    verdict = interpretability_verdict(read_interpretability({"interpretability": found}))
    assert run.result["verdict"] == " ".join(verdict)
    assert "labels of other features, which score" in verdict[0]


async def test_without_a_labeller_it_says_what_to_set(ctx: JobContext, indexed: None) -> None:
    with pytest.raises(Unprocessable, match=r"Set SEESAE_LLM_URL and SEESAE_LLM_MODEL"):
        await submit(ctx, "evaluate", PARAMS)


async def test_without_an_index_there_is_nothing_to_label_from(ctx: JobContext, training: TrainParams) -> None:
    await run_to_end(ctx, "train", training)
    async with llm_server(marked_word) as server:
        with pytest.raises(Unprocessable, match=r"has no index"):
            await submit(asking(ctx, server), "evaluate", PARAMS)
    assert not server.requests


def test_the_stages_are_there_where_it_is_asked_for() -> None:
    assert EVALUATE.stages(PARAMS)[-2:] == SUGGESTION
    assert SUGGESTION[0] not in EVALUATE.stages(PARAMS.model_copy(update={"interpret": None}))
