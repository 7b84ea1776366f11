"""Names of the demo, and requests for a demo that exists."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.cli.demo import submit_demo
from app.errors import Unprocessable
from app.pipeline.demo import DEMO, DemoParams, demo_slugs, title
from app.pipeline.naming import sae_slug
from app.pipeline.train import MOST_FEATURES
from app.queries import runs
from app.queries.sql import locks
from app.runs.job_context import JobContext
from app.runs.spec import parse_params
from app.settings import Settings
from tests.factories import make_sae


def test_slugs_name_parameters_that_differ_from_the_default() -> None:
    assert demo_slugs(DemoParams()) == ["smollm2-135m-l9-batchtopk-4096"]
    assert demo_slugs(DemoParams(width=8192, layer=(4,))) == ["smollm2-135m-l4-batchtopk-8192"]
    assert demo_slugs(DemoParams(k=16, tokens=65536)) == ["smollm2-135m-l9-batchtopk-4096-k16-t65536"]
    assert demo_slugs(DemoParams(layer=(6, 9), k=16)) == [
        "smollm2-135m-l6-batchtopk-4096-k16",
        "smollm2-135m-l9-batchtopk-4096-k16",
    ]
    assert sae_slug("gpt2", "mlp_out.3", "topk", 512) == "gpt2-l3-mlp-out-topk-512"
    assert title(DemoParams()) == "Demo: 4,096 features of SmolLM2-135M, layer 9, on 105,000 tokens"
    assert "layers 6, 9, on" in title(DemoParams(layer=(6, 9)))


def test_the_parameters_of_a_demo_of_one_layer_are_kept_as_before() -> None:
    assert DemoParams().model_dump(mode="json")["layer"] == 9
    assert DemoParams(layer=(6, 9)).model_dump(mode="json")["layer"] == [6, 9]


@pytest.mark.parametrize("name", ["width", "k"])
def test_a_size_that_no_training_can_have_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(Unprocessable, match=f"^{name}: "):
        parse_params(DEMO, {name: MOST_FEATURES + 1})


def shop_of(engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]) -> JobContext:
    return JobContext(Settings(author="tester"), engine, sessionmaker)


async def test_a_demo_is_one_run_until_it_is_done_and_its_index_is_there(
    engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    ctx = shop_of(engine, sessionmaker)
    first = await submit_demo(ctx, DemoParams())
    assert (await submit_demo(ctx, DemoParams())).id == first.id
    assert (await submit_demo(ctx, DemoParams(k=16))).id != first.id

    async with sessionmaker.begin() as session:
        await runs.start_run(session, first.id)
        await runs.finish_run(session, first.id, {"sae": demo_slugs(DemoParams())[0]})
    # Its SAE is not there, whoever removed it: the work is done again.
    again = await submit_demo(ctx, DemoParams())
    assert again.id != first.id


async def test_a_demo_of_the_earlier_default_is_served_as_it_is(
    engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    ctx = shop_of(engine, sessionmaker)
    earlier = await submit_demo(ctx, DemoParams(tokens=200_000))
    async with sessionmaker.begin() as session:
        await runs.start_run(session, earlier.id)
        await runs.finish_run(session, earlier.id, {})
    await make_sae(engine, slug=demo_slugs(DemoParams())[0])
    assert (await submit_demo(ctx, DemoParams())).id == earlier.id
    assert (await submit_demo(ctx, DemoParams(tokens=130_000))).id != earlier.id


async def test_a_command_that_only_works_has_nothing_to_do_where_the_demo_is_done(
    engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession], database_url: str, tmp_path: Path
) -> None:
    done = await submit_demo(shop_of(engine, sessionmaker), DemoParams())
    async with sessionmaker.begin() as session:
        await runs.start_run(session, done.id)
        await runs.finish_run(session, done.id, {"sae": demo_slugs(DemoParams())[0]})
    await make_sae(engine, slug=demo_slugs(DemoParams())[0])
    await engine.dispose()

    environment = os.environ | {"SEESAE_DATABASE_URL": database_url, "SEESAE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "app.cli", "demo", "--no-serve", "--json"]
    ended = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(ended.stdout)["sae"] == demo_slugs(DemoParams())[0]
    async with sessionmaker() as session:
        found, _ = await runs.list_runs(session)
    assert [run.id for run in found] == [done.id], "nothing was started again"


async def test_a_failed_demo_continues_as_the_same_run(
    engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    ctx = shop_of(engine, sessionmaker)
    first = await submit_demo(ctx, DemoParams())
    async with sessionmaker.begin() as session:
        await runs.start_run(session, first.id)
        await runs.fail_run(session, first.id, "No network.")
    assert (await submit_demo(ctx, DemoParams())).id == first.id
    async with sessionmaker() as session:
        run = await runs.get_run(session, first.id)
    assert run is not None
    assert (run.state, run.error) == ("queued", None)


async def test_a_demo_that_another_process_runs_is_not_queued(
    engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    ctx = shop_of(engine, sessionmaker)
    first = await submit_demo(ctx, DemoParams())
    async with sessionmaker.begin() as session:
        await runs.start_run(session, first.id)
    async with locks.run_lock(engine, first.id):
        assert (await submit_demo(ctx, DemoParams())).job_id == (await submit_demo(ctx, DemoParams())).job_id
