"""What is refused before a run is queued, and what a run is said to cost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import Conflict, NotFound, Unprocessable, UserError
from app.pipeline.checks import check_training
from app.pipeline.demo import DEMO, DemoParams
from app.pipeline.train import TrainParams
from app.runs.job_context import JobContext
from app.runs.spec import Estimate


async def checked(ctx: JobContext, params: TrainParams, **changes: object) -> Estimate:
    async with ctx.sessions() as session:
        return await check_training(session, ctx.settings, params.model_copy(update=changes))


async def test_a_training_states_its_tokens_and_the_room_that_they_take(ctx: JobContext, training: TrainParams) -> None:
    width = json.loads((Path(training.model) / "config.json").read_text())["hidden_size"]
    estimate = await checked(ctx, training, tokens=1000)
    assert estimate.tokens == 1000
    assert estimate.disk_bytes == (1000 + 128) * width * 4
    assert estimate.free_bytes is not None
    assert estimate.seconds is None  # nothing has run yet
    assert (await checked(ctx, training, tokens=1000, stream=True)).disk_bytes == 0


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"corpus": "/no/such/texts.jsonl"}, NotFound, "no corpus at /no/such/texts.jsonl"),
        ({"corpus": "texts.jsonl"}, NotFound, "whole path"),
        ({"corpus": "wikipedia-sumaries"}, NotFound, "no corpus named wikipedia-sumaries"),
        ({"model": "/no/such/model"}, NotFound, "no model at"),
        ({"hook": ("resid_post.1", "resid_post.4")}, Unprocessable, "its layers are 0 to 3"),
        ({"hook_out": "blocks.4.hook_mlp_out"}, Unprocessable, "no layer 4"),
        ({"hook": ("everything",)}, Unprocessable, "not a hook point"),
    ],
)
async def test_a_training_that_cannot_be_done_is_refused(
    ctx: JobContext, training: TrainParams, changes: dict[str, object], error: type[UserError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await checked(ctx, training, **changes)


async def test_a_disk_that_is_too_small_is_foreseen(
    ctx: JobContext, training: TrainParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "texts.txt"
    corpus.write_text("word " * 100_000)
    asked = training.model_copy(update={"corpus": str(corpus)})
    free = (await checked(ctx, asked)).disk_bytes
    assert free is not None
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free - 1))
    with pytest.raises(Conflict, match="are free"):
        await checked(ctx, asked)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    await checked(ctx, asked)
    table = asked.model_copy(update={"corpus": str(corpus.rename(tmp_path / "texts.jsonl"))})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    await checked(ctx, table)  # it may be another column that is large
    with pytest.raises(Conflict, match="are free"):
        await checked(ctx, table, tokens=1000)


async def test_a_demo_is_refused_where_there_is_no_room(ctx: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**8))
    async with ctx.sessions() as session:
        with pytest.raises(Conflict, match=r"105,000 tokens take 0\.2 GB, and 0\.1 GB are free"):
            await DEMO.check(session, ctx.settings, DemoParams())


async def test_activations_above_the_limit_of_the_caches_are_refused(ctx: JobContext, training: TrainParams) -> None:
    size = (await checked(ctx, training, tokens=4_000)).disk_bytes
    assert size is not None
    limited = replace(ctx, settings=ctx.settings.model_copy(update={"cache_limit": 0.9 * size / 1e9}))
    with pytest.raises(Unprocessable, match=rf"take {size / 1e9:.2f} GB, and SEESAE_CACHE_LIMIT allows 0\.00"):
        await checked(limited, training, tokens=4_000)
    await checked(limited, training, tokens=4_000, stream=True)
    await checked(limited, training, tokens=3_000)
    left = ctx.artifacts.activations("left")
    left.mkdir(parents=True)
    (left / "part").write_bytes(bytes(size))
    await checked(limited, training, tokens=4_000)  # they may be these
