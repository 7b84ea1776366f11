"""Text sets are read once per SAE, by whoever needs them, and what was read is known to gc and deletion."""

import shutil
from typing import Any

import numpy as np
import pytest

from app.errors import NotFound
from app.pipeline.read_texts import ReadTextsParams
from app.pipeline.text_readings import TextReader
from app.pipeline.train import TrainParams
from app.queries.runs import RunView
from app.queries.saes import get_sae
from app.queries.text_readings import feature_on_texts, readings_of_sae
from app.runs.context import RunInterrupted, StageProgress
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.services.deletion import delete
from app.storage.survey import read_needs, survey
from sae_core.readings import load_reading, pool_features
from sae_core.readings import read as reader
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.text_sets import make_text_set

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
PARAMS = ReadTextsParams(sae=SAE, textset="moods")


def figures(run: RunView) -> dict[str, Any]:
    return {name: value for name, value in (run.result or {}).items() if name != "seconds"}


async def test_a_set_is_read_once_and_kept_sparsely(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SHARD_TOKENS", 300)
    await run_to_end(ctx, "train", training)
    with pytest.raises(NotFound, match="no text set named “moods”"):
        await submit(ctx, "read-texts", PARAMS)
    async with ctx.sessions.begin() as session:
        await make_text_set(session)
    run_id = await submit(ctx, "read-texts", PARAMS)
    whole = StageProgress.__call__

    def stop_half_way(self: StageProgress, done: int, total: int, *rest: Any) -> None:
        if self._name == "read" and done > total / 2:
            raise RunInterrupted
        whole(self, done, total, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StageProgress, "__call__", stop_half_way)
        with pytest.raises(RunInterrupted):
            await execute(ctx, run_id)
    (folder,) = (ctx.artifacts.root / "readings").iterdir()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert kept
    await execute(ctx, run_id)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in kept.items())
    run = await run_row(ctx, run_id)
    assert run.result is not None and run.state == "done"
    assert (run.result["texts"], run.result["truncated"]) == (80, 0)

    reading = load_reading(folder)
    pooled = pool_features(reading, "max").toarray()
    async with ctx.sessions() as session:
        detail = await get_sae(session, SAE)
        assert detail is not None
        (row,) = await readings_of_sae(session, detail.id)
        assert (row.set_name, row.texts, row.tokens, row.key) == ("moods", 80, reading.tokens, folder.name)
        feature = int(pooled.max(axis=0).argmax())
        stored = await feature_on_texts(session, row.id, feature)
        assert await feature_on_texts(session, row.id, 10_000) == {}
    expected = {int(text): float(pooled[text, feature]) for text in np.flatnonzero(pooled[:, feature])}
    assert stored == pytest.approx(expected, rel=1e-6)
    (item,) = [item for item in survey(ctx.artifacts, await read_needs(ctx.sessions)) if item.category == "readings"]
    assert item.needed and "texts of moods" in item.reason

    async def never(*_: Any) -> Any:
        raise AssertionError("the model was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(TextReader, "load", never)
        again = await run_to_end(ctx, "read-texts", PARAMS)
    assert figures(again) == figures(run) and {stage.state for stage in again.stages} == {"done"}
    shutil.rmtree(folder)  # somebody freed the disk: it is read again
    assert figures(await run_to_end(ctx, "read-texts", PARAMS)) == figures(run)

    async with ctx.sessions.begin() as session:
        deletion = await delete(session, "sae", SAE, ctx.artifacts)
    assert f"readings/{folder.name}" in deletion.folders
    assert any("1 text set" in clause for clause in deletion.goes)
    (item,) = [item for item in survey(ctx.artifacts, await read_needs(ctx.sessions)) if item.category == "readings"]
    assert not item.needed
