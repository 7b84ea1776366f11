"""Runs from end to end on a tiny model: train, index, evaluate; repeated, interrupted and continued."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.errors import Conflict, NotFound
from app.pipeline import distributed, prepared_inputs
from app.pipeline.evaluate import EvaluateParams
from app.pipeline.index import IndexParams
from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs, saes
from app.queries.sql import locks
from app.runs.context import RunContext, RunInterrupted, RunLocked
from app.runs.execution import execute
from app.runs.failures import INTERRUPTED
from app.runs.job_context import JobContext
from app.runs.queue import fail_abandoned
from sae_core.errors import CheckpointError, ModelError, SAEError
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.tiny import CORPUS_FILE, documents

SLUG = "tiny-llama-l1-batchtopk-64"


def indexing() -> IndexParams:
    return IndexParams(sae=SLUG, corpus=str(CORPUS_FILE), length=32)


async def published(ctx: JobContext) -> dict[str, list[Any]]:
    """Everything that a published index consists of, but for ids and times."""
    async with ctx.sessions() as session:
        feature = (
            await session.execute(text("SELECT to_jsonb(feature) - 'index_id' FROM feature ORDER BY number"))
        ).all()
        bands = (
            await session.execute(
                text("SELECT to_jsonb(example_band) - 'index_id' FROM example_band ORDER BY feature, band")
            )
        ).all()
        indices = (await session.execute(text("SELECT tokens, provenance FROM feature_index"))).all()
    return {"feature": list(feature), "bands": list(bands), "indices": list(indices)}


async def test_train_then_index_then_evaluate(ctx: JobContext, training: TrainParams) -> None:
    trained = await run_to_end(ctx, "train", training)
    assert (trained.state, trained.sae_slug) == ("done", SLUG)
    assert trained.result is not None
    assert trained.result["explained_variance"] > 0.1
    assert [stage.state for stage in trained.stages] == ["done"] * len(TRAIN.stages(training))
    async with ctx.sessions() as session:
        points = await runs.metrics(session, trained.id)
    assert points
    assert {"loss", "explained_variance", "l0", "dead_fraction"} <= points[-1].values.keys()

    indexed = await run_to_end(ctx, "index", indexing())
    assert indexed.result is not None
    async with ctx.sessions() as session:
        sae = await saes.get_sae(session, SLUG)
        counted = await session.scalar(text("SELECT sum(count) FROM feature"))
    assert sae is not None
    assert sae.index is not None
    assert sae.index.tokens == indexed.result["tokens"]
    assert float(counted) == pytest.approx(indexed.result["l0"] * indexed.result["tokens"])
    assert sae.metrics["explained_variance"] == trained.result["explained_variance"]

    evaluated = await run_to_end(ctx, "evaluate", EvaluateParams(sae=SLUG, corpus=str(CORPUS_FILE), length=32))
    assert evaluated.result is not None
    assert evaluated.result["explained_variance"] == trained.result["explained_variance"]


async def test_a_repeated_run_reuses_existing_products(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await run_to_end(ctx, "train", training)

    def not_again(*arguments: object, **options: object) -> None:
        raise AssertionError("this was done already")

    monkeypatch.setattr(prepared_inputs, "pack", not_again)
    monkeypatch.setattr(distributed, "train", not_again)
    second = await run_to_end(ctx, "train", training)
    assert second.id != first.id
    assert second.result is not None
    assert first.result is not None
    assert second.result["explained_variance"] == first.result["explained_variance"]


async def test_another_training_of_the_same_name_is_refused(ctx: JobContext, training: TrainParams) -> None:
    await run_to_end(ctx, "train", training)
    with pytest.raises(Conflict, match="`name`"):
        await run_to_end(ctx, "train", training.model_copy(update={"seed": 1}))
    named = await run_to_end(ctx, "train", training.model_copy(update={"seed": 1, "name": "another"}))
    assert named.sae_slug == "another"


async def test_an_index_interrupted_at_any_report_gives_the_same_rows(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_to_end(ctx, "train", training)
    await run_to_end(ctx, "index", indexing())
    undisturbed = await published(ctx)
    async with ctx.sessions.begin() as session:  # as if there had never been an index
        await session.execute(text("UPDATE sae SET current_index_id = NULL"))
        await session.execute(text("TRUNCATE feature, example_band"))
        await session.execute(text("DELETE FROM feature_index"))
    for store in (ctx.settings.artifacts / "indexes").iterdir():
        for path in store.iterdir():
            path.unlink()

    chance = random.Random(0)
    report = RunContext.report
    stops = 0

    def stop_now_and_then(
        self: RunContext, name: str, done: int, total: int, seconds: float, metrics: Mapping[str, float] | None
    ) -> None:
        nonlocal stops
        report(self, name, done, total, seconds, metrics)
        if stops < 12 and chance.random() < 0.3:
            stops += 1
            raise RunInterrupted

    monkeypatch.setattr(RunContext, "report", stop_now_and_then)
    run_id = await submit(ctx, "index", indexing())
    while (await run_row(ctx, run_id)).state != "done":
        try:
            await execute(ctx, run_id)
        except RunInterrupted:
            assert await submit(ctx, "index", indexing()) == run_id
    assert stops == 12
    assert await published(ctx) == undisturbed


async def test_an_error_that_the_user_can_fix_fails_the_run_with_its_message(
    ctx: JobContext, training: TrainParams
) -> None:
    asked = training.model_copy(update={"hook": ("nowhere.1",)})
    run_id = await submit(ctx, "train", asked)
    with pytest.raises(ModelError) as caught:
        await execute(ctx, run_id)
    run = await run_row(ctx, run_id)
    assert (run.state, run.error) == ("failed", str(caught.value))


async def test_an_impossible_training_is_refused_before_the_model_runs(ctx: JobContext, training: TrainParams) -> None:
    run_id = await submit(ctx, "train", training.model_copy(update={"architecture": ("none-such",)}))
    with pytest.raises(SAEError, match="Choose standard, gated, jumprelu, topk, batchtopk"):
        await execute(ctx, run_id)
    run = await run_row(ctx, run_id)
    assert run.state == "failed"
    assert {stage.state for stage in run.stages} == {"waiting"}


async def test_the_error_about_an_unknown_sae_names_the_known_ones(ctx: JobContext, training: TrainParams) -> None:
    await run_to_end(ctx, "train", training)
    with pytest.raises(NotFound, match=SLUG):
        await run_to_end(ctx, "index", IndexParams(sae="no-such-sae", corpus=str(CORPUS_FILE)))


async def test_weights_that_are_not_where_they_were_are_said_to_be_elsewhere(
    ctx: JobContext, training: TrainParams
) -> None:
    """As after a move of the home folder, or of a database without the artifacts."""
    await run_to_end(ctx, "train", training)
    ctx.artifacts.root.rename(ctx.artifacts.root.with_name("elsewhere"))
    for kind, params in (
        ("index", indexing()),
        ("evaluate", EvaluateParams(sae=SLUG, corpus=str(CORPUS_FILE), length=32)),
    ):
        with pytest.raises(CheckpointError, match=f"weights of {SLUG} are not under .* Set SEESAE_ARTIFACTS"):
            await run_to_end(ctx, kind, params)


async def test_an_unexpected_error_is_reported_without_its_message(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise KeyError("somebody's text")

    monkeypatch.setattr(prepared_inputs, "pack", broken)
    run_id = await submit(ctx, "train", training)
    with pytest.raises(KeyError):
        await execute(ctx, run_id)
    run = await run_row(ctx, run_id)
    assert run.state == "failed"
    assert run.error is not None
    assert "KeyError" in run.error
    assert "somebody" not in run.error


async def test_two_processes_cannot_do_one_run_at_once(ctx: JobContext, training: TrainParams) -> None:
    run_id = await submit(ctx, "train", training)
    async with locks.run_lock(ctx.engine, run_id) as held:
        assert held
        with pytest.raises(RunLocked):
            await execute(ctx, run_id)
    await execute(ctx, run_id)
    assert (await run_row(ctx, run_id)).state == "done"


async def test_a_done_run_is_left_alone(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = await run_to_end(ctx, "train", training)
    await execute(ctx, done.id)
    assert (await run_row(ctx, done.id)).finished_at == done.finished_at


async def test_a_run_of_a_killed_command_fails_and_can_be_submitted_again(
    ctx: JobContext, training: TrainParams
) -> None:
    run_id = await submit(ctx, "train", training)
    async with ctx.sessions.begin() as session:
        await runs.start_run(session, run_id)
    async with locks.run_lock(ctx.engine, run_id):
        await fail_abandoned(ctx)
        assert (await run_row(ctx, run_id)).state == "running"
    await fail_abandoned(ctx)
    run = await run_row(ctx, run_id)
    assert (run.state, run.error) == ("failed", INTERRUPTED)
    assert await submit(ctx, "train", training) == run_id
    await execute(ctx, run_id)
    assert (await run_row(ctx, run_id)).state == "done"


async def test_a_corpus_without_text_is_refused_in_one_line(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    run_id = await submit(ctx, "train", training.model_copy(update={"corpus": str(empty)}))
    with pytest.raises(Exception, match="empty"):
        await execute(ctx, run_id)
    run = await run_row(ctx, run_id)
    assert run.state == "failed"
    assert run.error is not None
    assert "\n" not in run.error


async def test_runs_read_the_column_that_they_are_told_to(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    file = tmp_path / "columns.jsonl"
    lines = [json.dumps({"body": document["text"], "published": 1}) for document in documents()]
    file.write_text("\n".join(lines), encoding="utf-8")
    of_text = training.model_copy(update={"corpus": str(file)})
    run_id = await submit(ctx, "train", of_text)
    with pytest.raises(SAEError, match=r"no column 'text'. Its columns are body, published: .* `text_column`"):
        await execute(ctx, run_id)
    of_body = of_text.model_copy(update={"text_column": "body"})
    assert (await run_to_end(ctx, "train", of_body)).state == "done"
    indexed = indexing().model_copy(update={"corpus": str(file), "text_column": "body"})
    assert (await run_to_end(ctx, "index", indexed)).state == "done"
    async with ctx.sessions() as session:
        corpora = (await session.execute(text("SELECT slug, title, source FROM corpus"))).all()
    assert [tuple(row) for row in corpora] == [("columns-body", "columns.jsonl (body)", "columns.jsonl")]
