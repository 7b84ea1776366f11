"""A model tests labels of people, as another person would, on a local server of the protocol."""

import pytest

from app.errors import NotFound, Unprocessable
from app.pipeline.label_tests import TEST_LABELS, LabelTestsParams
from app.queries.blind_tests import label_scores
from app.runs.job_context import JobContext
from tests.app.pipeline.running import run_to_end
from tests.app.pipeline.test_suggest import asking
from tests.blind import keep_store
from tests.factories import add_label, make_sae
from tests.llm_server import completion, llm_server, top_word, word_finder


async def test_a_model_tests_labels_blind_once_and_again_after_they_change(ctx: JobContext) -> None:
    made = await make_sae(ctx.engine, sequences=900, length=64)
    keep_store(made, ctx.artifacts.root)
    async with ctx.sessions.begin() as session:
        labels = [await add_label(session, made.sae, feature, top_word(made, feature)) for feature in (13, 17)]
        await add_label(session, made.sae, 3, "", status="draft")
    params = LabelTestsParams(sae=made.sae.slug)
    async with llm_server(word_finder) as server:
        own = asking(ctx, server, llm_concurrency=1, llm_price_in=1.0)
        async with ctx.sessions() as session:
            cost = await TEST_LABELS.check(session, own.settings, params)
        run = await run_to_end(own, "test-labels", params)
        again = await run_to_end(own, "test-labels", params.model_copy(update={"answer_tokens": 511}))
        server.answer = lambda _request: completion('{"1": 10}')
        failed = await run_to_end(own, "test-labels", LabelTestsParams(sae=made.sae.slug, model="other"))
    assert run.result is not None
    assert cost.requests == 8
    assert cost.dollars is not None
    assert (run.result["labels"], run.result["tested"], run.result["requests"]) == (2, 2, 8)
    for kind in ("detection", "fuzzing"):
        assert run.result[kind] > run.result[f"{kind}_floor"] + 0.15
    assert again.result is not None
    assert (again.result["labels"], again.result["requests"]) == (0, 0), "what this model tested is not tested again"
    async with ctx.sessions() as session:
        scores = await label_scores(session, [label.id for label in labels])
    for label in labels:
        detection, fuzzing = sorted(scores[label.id], key=lambda score: score.kind)
        assert (detection.kind, fuzzing.kind) == ("detection", "fuzzing")
        assert detection.tester == "small (model)"
        assert detection.score["auprc"] is not None
        assert detection.score["floor"]["low"] <= detection.score["floor"]["value"]
    assert failed.result is not None
    assert (failed.result["tested"], failed.result["failed"]) == (0, 2)
    assert "rates 1 of 20 texts" in failed.result["notes"][0]


async def test_what_cannot_be_tested_is_refused(ctx: JobContext) -> None:
    made = await make_sae(ctx.engine)
    own = ctx.settings.model_copy(update={"llm_url": "http://127.0.0.1:9", "llm_model": "m"})
    async with ctx.sessions.begin() as session:
        await add_label(session, made.sae, 3, "Rivers")
        with pytest.raises(Unprocessable, match="SEESAE_LLM_URL"):
            await TEST_LABELS.check(session, ctx.settings, LabelTestsParams(sae=made.sae.slug))
        for params, why in (
            (LabelTestsParams(sae=made.sae.slug, label_set="pilot"), "no label set “pilot”"),
            (LabelTestsParams(sae=made.sae.slug, labels=(99,)), "Label 99 is not a submitted label"),
        ):
            with pytest.raises(NotFound, match=why):
                await TEST_LABELS.check(session, own, params)
