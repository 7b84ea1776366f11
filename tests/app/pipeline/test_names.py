"""Models and texts that share a name are told apart, and a name that is taken is refused before the model runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import Conflict
from app.pipeline.evaluate import EvaluateParams
from app.pipeline.identities import model_source
from app.pipeline.import_sae import ImportParams
from app.pipeline.index import IndexParams
from app.pipeline.sources import MODELS
from app.pipeline.train import TrainParams
from app.queries import runs, saes
from app.queries.saes import SaeDetail
from app.queries.sql import locks
from app.runs.job_context import JobContext
from tests.app.pipeline.running import run_to_end, submit
from tests.tiny import documents, tiny_model


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Two models in folders as a trainer names them, with different weights."""
    return [tiny_model(tmp_path / name / "checkpoint-500", seed=seed) for seed, name in enumerate(("run_a", "run_b"))]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts.jsonl", documents()[2:])


def write_texts(file: Path, texts: list[dict[str, str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return file


async def train(ctx: JobContext, training: TrainParams, **changes: Any) -> SaeDetail:
    done = await run_to_end(ctx, "train", TrainParams.model_validate({**training.model_dump(), **changes}))
    assert done.sae_slug is not None
    return await row(ctx, done.sae_slug)


async def index(ctx: JobContext, sae: SaeDetail, file: Path, **options: Any) -> SaeDetail:
    await run_to_end(ctx, "index", IndexParams(sae=sae.slug, corpus=str(file), length=32, **options))
    return await row(ctx, sae.slug)


async def row(ctx: JobContext, slug: str) -> SaeDetail:
    async with ctx.sessions() as session:
        detail = await saes.get_sae(session, slug)
    assert detail is not None
    return detail


def shown_text(sae: SaeDetail) -> str:
    assert sae.index is not None
    return sae.index.sequence_set.corpus.title


async def test_two_models_whose_folders_share_a_name_work_and_are_told_apart(
    ctx: JobContext, training: TrainParams, checkpoints: list[Path], text_file: Path
) -> None:
    first, second = [await train(ctx, training, model=str(folder)) for folder in checkpoints]
    assert first.model.name == "checkpoint-500"
    assert second.model.name.startswith("checkpoint-500-")
    assert (first.model.id, first.slug) != (second.model.id, second.slug)
    assert second.slug.startswith(second.model.name)
    for sae in (first, second):
        assert (await index(ctx, sae, text_file)).index is not None


async def test_the_same_model_in_another_folder_is_the_same_model(
    ctx: JobContext, training: TrainParams, checkpoints: list[Path]
) -> None:
    first = await train(ctx, training, model=str(checkpoints[0]))
    moved = checkpoints[0].rename(checkpoints[0].with_name("moved"))
    second = await train(ctx, training, model=str(moved), name="second")
    assert second.model.id == first.model.id
    assert second.model.name == "checkpoint-500"
    assert second.model.source == str(moved), "the former folder is gone"


async def test_the_name_of_a_model_can_be_chosen_unless_it_is_taken(
    ctx: JobContext, training: TrainParams, checkpoints: list[Path]
) -> None:
    first, second = [
        await train(ctx, training, model=str(folder), model_name=name)
        for folder, name in zip(checkpoints, ("mine", "yours"), strict=True)
    ]
    assert (first.model.name, second.model.name) == ("mine", "yours")
    assert first.slug.startswith("mine-")
    with pytest.raises(Conflict, match="`model_name`"):
        await train(ctx, training, model=str(checkpoints[1]), model_name="mine")
    weights = shutil.copytree(ctx.artifacts.sae(second.slug), ctx.settings.home / "copy")
    await train(ctx, training, model=str(checkpoints[1]), model_name="theirs", name=second.slug)
    await run_to_end(ctx, "import", ImportParams(source=str(weights), name="imported"))
    assert (await row(ctx, "imported")).model == replace(second.model, name="theirs"), "found by its hash"


async def test_an_edited_text_and_another_of_the_same_name_work_and_are_told_apart(
    ctx: JobContext, training: TrainParams, text_file: Path, tmp_path: Path
) -> None:
    sae = await train(ctx, training)
    assert shown_text(await index(ctx, sae, text_file)) == "texts.jsonl"
    write_texts(text_file, documents()[:-1])
    assert shown_text(await index(ctx, sae, text_file)) == "texts.jsonl (version 2)"
    other = write_texts(tmp_path / "other" / "texts.jsonl", documents()[1:])
    assert shown_text(await index(ctx, sae, other)) == "texts.jsonl (version 3)"
    named = await index(ctx, sae, other, corpus_name="Second half")
    assert shown_text(named) == "Second half"
    write_texts(text_file, documents()[2:])
    assert shown_text(await index(ctx, sae, text_file)) == "texts.jsonl"


async def test_an_sae_is_not_indexed_on_a_model_that_changed_at_its_source(
    ctx: JobContext, training: TrainParams, checkpoints: list[Path], text_file: Path
) -> None:
    sae = await train(ctx, training, model=str(checkpoints[0]))
    shutil.rmtree(ctx.settings.artifacts / "activations")
    tiny_model(checkpoints[0], seed=7)
    for kind, params in (("index", IndexParams), ("evaluate", EvaluateParams)):
        with pytest.raises(Conflict, match=r"no longer the one.*former files"):
            await run_to_end(ctx, kind, params(sae=sae.slug, corpus=str(text_file), length=32))
    assert not (ctx.settings.artifacts / "activations").exists()
    assert (await train(ctx, training, model=str(checkpoints[0]))).model.name.startswith("checkpoint-500-")


async def test_a_name_that_another_sae_has_is_refused_before_the_model_runs(
    ctx: JobContext, training: TrainParams, checkpoints: list[Path]
) -> None:
    await train(ctx, training, name="mine")
    shutil.rmtree(ctx.settings.artifacts / "activations")
    with pytest.raises(Conflict, match="`name`"):
        await train(ctx, training, model=str(checkpoints[1]), name="mine")
    assert not (ctx.settings.artifacts / "activations").exists()


async def test_a_name_that_a_run_under_way_has_is_refused_before_the_model_runs(
    ctx: JobContext, training: TrainParams
) -> None:
    under_way = await submit(ctx, "train", training.model_copy(update={"name": "mine"}))
    async with ctx.sessions.begin() as session:
        await runs.start_run(session, under_way)
        assert await runs.claim_sae(session, under_way, "mine", "its key") is None
    other = {"seed": 1, "name": "mine"}
    async with locks.run_lock(ctx.engine, under_way):
        with pytest.raises(Conflict, match=rf"Run {under_way} .*`name`"):
            await train(ctx, training, **other)
    assert not (ctx.settings.artifacts / "activations").exists()
    assert (await train(ctx, training, **other)).slug == "mine", "the command that held the name was killed"


def test_names_that_cannot_be_used_are_refused_at_once(training: TrainParams) -> None:
    for wrong in ({"name": "../x"}, {"model_name": "a/b"}, {"model_name": "A"}, {"corpus_name": ""}):
        with pytest.raises(ValidationError):
            TrainParams.model_validate({**training.model_dump(), **wrong})


async def test_a_model_of_a_package_is_found_by_its_file_and_not_by_its_name(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    name, package = next(iter(MODELS.items()))
    sae = await train(ctx, training, model=str(tiny_model(tmp_path / name)))
    assert sae.model.name == name
    assert model_source(sae.model) == str(tmp_path / name)
    file = tmp_path / "cache" / package.sha256[:16] / Path(package.member).name
    assert model_source(replace(sae.model, source=str(file))) == name
