"""Side effects of an edit of an SAE that was trained and indexed for real, tiny as it is."""

import json
from typing import Any

import pytest

from app.errors import NotFound
from app.pipeline import measured_edits
from app.pipeline.index import IndexParams
from app.pipeline.measure_edit import MeasureEditParams, check
from app.pipeline.train import TrainParams
from app.queries.edits import EditView, NewEdit, add_edit, delete_edit, get_edit
from app.queries.people import ensure_name
from app.queries.saes import get_sae
from app.runs.context import RunInterrupted, StageProgress
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.storage.survey import read_needs, survey
from sae_core.checkpoints import load_sae
from sae_core.interventions import Edit, Intervention, Site
from sae_core.interventions.edits import edit_to_json
from sae_core.models import HookPoint, load_model
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.effects import flat
from tests.tiny import CORPUS_FILE

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
NAME = "test"
PARAMS = MeasureEditParams(edit=NAME, controls=2)
CHECKS = {
    "prompts": [{"prompt": "It was the best of", "expected": "times", "forbidden": "worlds"}],
    "paraphrases": [],
    "neighbours": [{"prompt": "Call me", "expected": "Ishmael", "forbidden": None}],
    "control": ["Once upon a time", "The king said"],
}


@pytest.fixture
async def trained(ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch) -> JobContext:
    monkeypatch.setattr(measured_edits, "PART", 1)
    await run_to_end(ctx, "train", training)
    await run_to_end(ctx, "index", IndexParams(sae=SAE, corpus=str(CORPUS_FILE), length=32))
    async with ctx.sessions() as session:
        detail = await get_sae(session, SAE)
    assert detail is not None
    sae = load_sae(ctx.artifacts.root / detail.artifact)
    model = load_model(detail.model.source, device="cpu")
    feature = int(sae.W_dec.norm(dim=1).argmax())
    site = Site(HookPoint.parse(detail.hook), [Intervention("add", 3.0, feature=feature)], sae)
    async with ctx.sessions.begin() as session:
        owner_id = await ensure_name(session, "ada")
    new = NewEdit(
        title="Test",
        author="ada",
        owner_id=owner_id,
        notes="",
        model_id=detail.model.id,
        saes=[(detail.id, detail.slug)],
        interventions=[{"op": "add", "value": 3.0, "feature": feature, "sae": SAE}],
        prompts=[],
        checks=CHECKS,
        file=json.dumps(edit_to_json(Edit.of("Test", model, [site]))),
    )
    async with ctx.sessions.begin() as session:
        assert await add_edit(session, NAME, new)
    return ctx


async def saved(ctx: JobContext) -> EditView:
    async with ctx.sessions() as session:
        found = await get_edit(session, NAME)
    assert found is not None
    return found


async def test_side_effects_are_kept_with_the_edit(trained: JobContext) -> None:
    run = await run_to_end(trained, "measure-edit", PARAMS)
    assert run.state == "done", run.error
    assert run.result is not None
    assert run.sae_slug == SAE
    edit = await saved(trained)
    assert edit.run_id == run.id
    assert edit.measured is not None
    text, prompts, facts = (edit.measured[name] for name in ("text", "control_prompts", "facts"))
    assert text["kl"]["edit"]["value"] > 0
    assert text["kl"]["control"]["value"] > 0
    assert run.result["kl"] == text["kl"]["edit"]["value"]
    assert text["texts"] > 1
    low, high = text["kl"]["edit"]["interval"]
    assert low <= text["kl"]["edit"]["value"] <= high
    assert text["gained"][0]["change"] > 0
    assert text["gained"][0]["text"]
    assert prompts["texts"] == 2
    assert facts.keys() == {"prompts", "neighbours"}
    assert facts["prompts"]["prompts"] == 1
    assert facts["prompts"]["each"][0]["expected"] == "times"
    assert facts["neighbours"]["forbidden"] is None
    assert len(edit.measured["control_features"]) == 2


async def test_an_interrupted_measurement_ends_with_the_same_figures(
    trained: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await submit(trained, "measure-edit", PARAMS)
    whole = StageProgress.__call__

    def stop(self: StageProgress, done: int, total: int, *rest: Any) -> None:
        if self._name == "measure" and done >= 2:
            raise RunInterrupted
        whole(self, done, total, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StageProgress, "__call__", stop)
        with pytest.raises(RunInterrupted):
            await execute(trained, run_id)
    assert (await saved(trained)).measured is None
    (folder,) = (trained.artifacts.root / "effects").iterdir()
    assert len(list(folder.glob("*.json"))) == 2
    computed: list[int] = []
    change_of_text = measured_edits.change_of_text
    monkeypatch.setattr(
        measured_edits, "change_of_text", lambda *given: (computed.append(1), change_of_text(*given))[1]
    )
    await execute(trained, run_id)
    assert (await run_row(trained, run_id)).state == "done"
    resumed = (await saved(trained)).measured
    assert resumed is not None
    assert len(computed) == resumed["text"]["texts"] + 2 - 2, "what was measured is not measured again"
    for path in folder.iterdir():
        path.unlink()
    await run_to_end(trained, "measure-edit", PARAMS)
    whole_run = (await saved(trained)).measured  # its thread may add in another order
    assert dict(flat(whole_run)) == pytest.approx(dict(flat(resumed)), rel=1e-4, abs=1e-6)
    items = [
        item for item in survey(trained.artifacts, await read_needs(trained.sessions)) if item.category == "effects"
    ]
    assert [item.needed for item in items] == [False]


async def test_what_cannot_be_measured_is_refused_before_the_work(trained: JobContext) -> None:
    async with trained.sessions() as session:
        estimate = await check(session, trained.settings, PARAMS)
        assert estimate.tokens == 4 * PARAMS.held_out
        with pytest.raises(NotFound, match="no edit “none”"):
            await check(session, trained.settings, PARAMS.model_copy(update={"edit": "none"}))
        with pytest.raises(NotFound):
            await check(session, trained.settings, PARAMS.model_copy(update={"corpus": "/nowhere.jsonl"}))
    async with trained.sessions.begin() as session:
        await delete_edit(session, NAME)
    async with trained.sessions() as session:
        with pytest.raises(NotFound, match="may have been deleted"):
            await check(session, trained.settings, PARAMS)
