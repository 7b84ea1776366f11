"""Exports as runs: what is refused before they are queued, and that a run writes what the functions of `app.exchange`
do, whose own tests look at the files."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import Conflict, NotFound, NoWeights, UserError
from app.pipeline.export import EXPORT, ExportParams, check_export
from app.runs.job_context import JobContext
from app.runs.spec import Estimate
from tests.app.pipeline.running import EXPORTS, import_statistics, run_to_end


def wanted(folder: Path, format: str = "jsonl", sae: str = "mine", **more: Any) -> ExportParams:
    return ExportParams(sae=sae, destination=str(folder), format=format, **more)  # type: ignore[arg-type]


async def check(ctx: JobContext, params: ExportParams) -> Estimate:
    async with ctx.sessions() as session:
        return await check_export(session, ctx.settings, params)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"destination": "shared"}, "Give the whole path"),
        ({"format": "npz"}, "format"),
        ({"features": "5-3"}, "backwards"),
        ({"format": "saelens", "features": "5"}, "holds the weights of all features"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(given: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=words):
        ExportParams.model_validate({"sae": "mine", "destination": str(tmp_path), "format": "jsonl"} | given)


async def test_features_and_labels_are_exported(ctx: JobContext, tmp_path: Path) -> None:
    await import_statistics(ctx, EXPORTS / "release", name="mine")
    done = await run_to_end(ctx, "export", wanted(tmp_path / "new" / "features", features="0-3"))
    assert (done.state, done.sae_slug, done.title) == ("done", "mine", "Export mine as jsonl")
    assert done.result is not None
    assert (done.result["features"], done.result["files"]) == (3, 1)
    assert done.result["notes"][0].startswith(f"{tmp_path / 'new' / 'features'} holds 3 features of mine as jsonl: ")
    assert [path.name for path in (tmp_path / "new" / "features").iterdir()] == ["features.jsonl"]
    assert (done.stages[0].state, done.stages[0].total) == ("done", 3)

    labels = await run_to_end(ctx, "export", wanted(tmp_path / "labels", "labels"))
    assert labels.result is not None
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"labels.csv", "labels.jsonl", "history.jsonl"}
    assert EXPORT.order(labels.result).keys() >= {"labels", "folder", "files", "bytes"}


async def test_what_cannot_be_exported_is_refused_before_it_is_queued(ctx: JobContext, tmp_path: Path) -> None:
    await import_statistics(ctx, EXPORTS / "release", name="mine")
    for format in ("jsonl", "labels", "saelens"):
        with pytest.raises(NotFound, match=r"There is no SAE “none”\. There are: mine"):
            await check(ctx, wanted(tmp_path / "new", format, sae="none"))
    with pytest.raises(NoWeights):
        await check(ctx, wanted(tmp_path / "new", "saelens"))
    (tmp_path / "notes.txt").write_text("mine")
    for format in ("jsonl", "site", "labels"):
        with pytest.raises(Conflict, match="Give a new or an empty folder"):
            await check(ctx, wanted(tmp_path, format))
        with pytest.raises(UserError, match="cannot be written"):
            await check(ctx, wanted(tmp_path / ("n" * 300), format))
        assert await check(ctx, wanted(tmp_path / "new", format)) == Estimate()
    assert not (tmp_path / "new").exists()
