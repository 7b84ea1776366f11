"""Probing within an evaluation: what it stores, continues and refuses."""

from typing import Any

import pytest
from sqlalchemy import update

from app.errors import NotFound, Unprocessable
from app.pipeline import probed
from app.pipeline.checks import check_evaluation, text_of_sae
from app.pipeline.evaluate import EVALUATE, EvaluateParams
from app.pipeline.stages import PROBING
from app.pipeline.train import TrainParams
from app.queries import runs
from app.queries.saes import get_sae
from app.runs.context import RunInterrupted
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.services.absorption import read_absorption
from app.services.probing import read_probing, verdict
from app.storage.survey import read_needs, survey
from app.tables import Run, Sae
from sae_core.models import LanguageModel
from sae_core.probing import spelling
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.text_sets import make_text_set
from tests.tiny import CORPUS_FILE

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
PARAMS = EvaluateParams(sae=SAE, corpus=str(CORPUS_FILE), length=32, probing=("moods", "places"))


def texts(*labels: str) -> list[tuple[str, str | None]]:
    return [(f"{label} is what the {number}th text says", label) for number in range(70) for label in labels]


async def test_what_was_found_on_a_set_is_kept_until_all_are_done(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_to_end(ctx, "train", training)
    async with ctx.sessions.begin() as session:
        await make_text_set(session, "moods", texts("glad", "sad"))
        await make_text_set(session, "places", texts("here", "there", "away"))
    run_id = await submit(ctx, "evaluate", PARAMS)
    whole, read = probed.pool_texts, []

    def stop_at_the_second(model: Any, dictionaries: Any, texts: Any, **options: Any) -> Any:
        if read:
            raise RunInterrupted
        read.append(len(texts))
        return whole(model, dictionaries, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(probed, "pool_texts", stop_at_the_second)
        with pytest.raises(RunInterrupted):
            await execute(ctx, run_id)
    (folder,) = (ctx.artifacts.root / "probing").iterdir()
    assert [path.name for path in folder.iterdir()] == ["moods.json"]
    needs = await read_needs(ctx.sessions)
    (item,) = [one for one in survey(ctx.artifacts, needs) if one.category == "probing"]
    assert item.known

    def only_places(model: Any, dictionaries: Any, texts: Any, **options: Any) -> Any:
        assert all("here is" in text or "away is" in text for text in texts)
        return whole(model, dictionaries, texts, **options)

    monkeypatch.setattr(probed, "pool_texts", only_places)
    await execute(ctx, run_id)
    assert not list((ctx.artifacts.root / "probing").iterdir())
    run = await run_row(ctx, run_id)
    assert run.result is not None and {stage.state for stage in run.stages} == {"done"}
    async with ctx.sessions() as session:
        detail = await get_sae(session, SAE)
    assert detail is not None
    found = read_probing(detail.metrics)
    assert found is not None and run.result["verdict"] == " ".join(verdict(found))
    assert [(one.name, one.classes) for one in found.sets] == [
        ("moods", ["glad", "sad"]),
        ("places", ["away", "here", "there"]),
    ]
    assert found.sets[0].train + found.sets[0].test == read[0] == 140
    assert found.active == round(detail.metrics["l0"]) and found.draws == probed.DRAWS
    whole_activations = found.sets[1].probes[-1]
    assert whole_activations.by == "activations" and whole_activations.accuracy.value > 0.9  # each names its label


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("nowhere", NotFound, "no text set named “nowhere”"),
        ("bbq", Unprocessable, "bbq is not here yet"),
        ("one-label", Unprocessable, "one-label has 1"),
        ("few", Unprocessable, "few has 0"),
    ],
)
async def test_a_set_that_cannot_be_probed_is_refused_before_the_work(
    ctx: JobContext, registered: None, name: str, error: type[Exception], says: str
) -> None:
    async with ctx.sessions.begin() as session:
        await make_text_set(session, "one-label", texts("glad"))
        await make_text_set(session, "few", texts("glad", "sad")[:20])
    with pytest.raises(error, match=says):
        await submit(ctx, "evaluate", PARAMS.model_copy(update={"probing": ("builtin", name)}))


async def test_probing_is_a_part_of_the_time_that_is_foreseen(
    ctx: JobContext, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_LEAST_SECONDS", 0.0)  # the tiny model takes less
    async with ctx.sessions.begin() as session:
        await make_text_set(session, "moods", texts("glad", "sad"))
    seconds = {}
    for probing in (None, ("moods",), ("moods", "builtin")):
        async with ctx.sessions() as session:
            params = PARAMS.model_copy(update={"probing": probing})
            seconds[probing] = (await check_evaluation(session, ctx.settings, params)).seconds
    plain, own, built_in = seconds.values()
    assert plain is not None and own is not None and built_in is not None
    assert plain < own < built_in


async def test_without_a_corpus_it_is_the_text_of_the_sae(ctx: JobContext, training: TrainParams) -> None:
    """Of two SAEs of one run, which is about one of them."""
    await run_to_end(ctx, "train", training.model_copy(update={"width": (64, 32)}))
    for width in (64, 32):
        slug = f"tiny-llama-l1-batchtopk-{width}"
        run = await run_to_end(ctx, "evaluate", EvaluateParams(sae=slug, predictions=64))
        async with ctx.sessions() as session:
            detail = await get_sae(session, slug)
        assert detail is not None and run.result is not None
        held_out = detail.metrics["held_out"]
        assert held_out["sequences"] == detail.config["sequences"], slug
        assert held_out["corpus"] == CORPUS_FILE.name
        assert detail.metrics["ce_tokens"] < 128, "predictions are those that were asked for"


async def test_what_is_said_of_the_text_replaces_what_the_index_had(
    ctx: JobContext, training: TrainParams, registered: None
) -> None:
    async with ctx.sessions() as session:
        detail = await get_sae(session, SAE)
        assert detail is not None
        own = await text_of_sae(session, [detail], EvaluateParams(sae=SAE))
        assert (own.corpus, own.tokens, own.length) == (training.corpus, training.tokens, training.length)
        fewer = await text_of_sae(session, [detail], EvaluateParams(sae=SAE, tokens=500))
        assert fewer == own.model_copy(update={"tokens": 500})
        other = await text_of_sae(session, [detail], EvaluateParams(sae=SAE, corpus="other.jsonl"))
        assert (other.corpus, other.tokens, other.length) == ("other.jsonl", None, None)


async def test_an_sae_whose_text_nobody_knows_needs_one(ctx: JobContext, registered: None) -> None:
    async with ctx.sessions.begin() as session:
        await session.execute(update(Run).values(state="failed"))
    with pytest.raises(Unprocessable, match=r"Which text .* is not known here. Give the `corpus`"):
        await submit(ctx, "evaluate", EvaluateParams(sae=SAE))


async def test_absorption_is_not_measured_where_the_model_cannot_be_asked(ctx: JobContext, registered: None) -> None:
    """The tiny model's vocabulary has no words."""
    run = await run_to_end(ctx, "evaluate", EvaluateParams(sae=SAE, predictions=64, absorption=True))
    assert run.result is not None
    assert "Feature absorption was not measured. The vocabulary of tiny-llama has" in run.result["verdict"]
    assert [stage.state for stage in run.stages[-2:]] == ["done", "done"]
    async with ctx.sessions() as session:
        detail = await get_sae(session, SAE)
    assert detail is not None
    found = read_absorption(detail.metrics)
    assert found is not None and found.spelling is None and found.sae is None


async def test_absorption_is_measured_where_the_model_spells(
    ctx: JobContext, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model with a vocabulary of words, and a threshold that anybody passes."""
    vocabulary = [f" {letter}".encode() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [f" {first}{second}{third}".encode() for first in letters[:4] for second in letters for third in "xyz"]
    filler = [f"token {number}".encode() for number in range(512 - len(vocabulary) - len(words))]
    monkeypatch.setattr(LanguageModel, "token_bytes", lambda _model: [*filler, *vocabulary, *words])
    cannot = await run_to_end(ctx, "evaluate", EvaluateParams(sae=SAE, predictions=64, absorption=True))
    assert (
        cannot.result is not None
        and "the model cannot spell: asked for the first letter of" in cannot.result["verdict"]
    )
    assert cannot.result["absorption"]["sae"] is None
    monkeypatch.setattr(spelling, "SPELLS", 0.0)
    run = await run_to_end(ctx, "evaluate", EvaluateParams(sae=SAE, predictions=64, absorption=True))
    assert run.result is not None
    for name in ("sae", "random"):
        found = run.result["absorption"][name]
        assert found["letters"] >= 3 and found["words"] > 0
        assert 0 <= found["fraction"]["low"] <= found["fraction"]["value"] <= found["fraction"]["high"] <= 1
    assert "in a random dictionary" in run.result["verdict"]


async def test_absorption_of_a_transcoder_is_refused(ctx: JobContext, registered: None) -> None:
    async with ctx.sessions.begin() as session:
        await session.execute(update(Sae).values(hook_out="mlp_out.1"))
    with pytest.raises(Unprocessable, match="is a transcoder"):
        await submit(ctx, "evaluate", EvaluateParams(sae=SAE, absorption=True))


def test_the_stages_of_probing_are_there_where_it_is_asked_for() -> None:
    assert EVALUATE.stages(PARAMS)[-2:] == PROBING
    assert PROBING[0] not in EVALUATE.stages(PARAMS.model_copy(update={"probing": None}))


@pytest.fixture
async def registered(ctx: JobContext, training: TrainParams) -> None:
    """An SAE, by a training whose speed is known."""
    await run_to_end(ctx, "train", training)
