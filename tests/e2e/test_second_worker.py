"""A run of every kind: submitted from the browser, the API and the command line, cancelled, retried, and done by
workers that share only the database and the artifacts with whoever submitted it.
"""

import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.runs.job_context import JobContext
from app.settings import Settings
from tests.app.pipeline.running import EXPORTS, run_row
from tests.app.runs.workers import (
    as_arguments,
    is_done,
    is_done_by,
    is_training,
    seesae,
    submitter_settings,
    until,
    worker,
)
from tests.e2e.demo_packages import fetched_packages, link_packages
from tests.e2e.run_pages import cancel_run, queue_run, retry_run
from tests.tiny import CORPUS_FILE, tiny_model

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

TEXT = {"corpus": str(CORPUS_FILE), "length": "32"}


@pytest.fixture
def settings(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return submitter_settings(tmp_path, database_url, monkeypatch)


@pytest.fixture
def ctx(settings: Settings, engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]) -> JobContext:
    return JobContext(settings, engine, sessionmaker)


@pytest.fixture
async def client(live: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live, timeout=60) as client:
        yield client


@dataclass(frozen=True)
class Browser:
    page: Page
    site: str

    async def submit(self, kind: str, **params: str) -> int:
        await self.page.goto(f"{self.site}/runs/new/{kind}")
        return await queue_run(self.page, **params)

    async def cancel(self, run: int) -> None:
        await self.page.goto(f"{self.site}/runs/{run}")
        await cancel_run(self.page)

    async def retry(self, run: int) -> None:
        await self.page.goto(f"{self.site}/runs/{run}")
        await retry_run(self.page)


@dataclass(frozen=True)
class Api:
    client: httpx.AsyncClient

    async def submit(self, kind: str, **params: str) -> int:
        answer = await self.client.post("/api/v1/runs", json={"kind": kind, "params": params})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/v1/runs/{answer.json()['id']}"
        return int(answer.json()["id"])

    async def cancel(self, run: int) -> None:
        assert (await self.client.post(f"/api/v1/runs/{run}/cancel")).json()["state"] == "cancelled"

    async def retry(self, run: int) -> None:
        assert (await self.client.post(f"/api/v1/runs/{run}/retry")).json()["state"] == "queued"


class CommandLine:
    async def submit(self, kind: str, **params: str) -> int:
        return int((await seesae(kind, *as_arguments(kind, params), "--queue"))["run"])

    async def cancel(self, run: int) -> None:
        assert (await seesae("runs", "cancel", str(run)))["state"] == "cancelled"

    async def retry(self, run: int) -> None:
        assert (await seesae("runs", "retry", str(run)))["state"] == "queued"


Ways = dict[str, Browser | Api | CommandLine]


@pytest.fixture
def ways(page: Page, live: str, client: httpx.AsyncClient) -> Ways:
    """Every way to submit a run; the SAEs of these tests are named by them."""
    return {"browser": Browser(page, live), "api": Api(client), "command": CommandLine()}


async def submit_each_way(ways: Ways, kind: str, params_of: Callable[[str], dict[str, str]]) -> list[int]:
    """Submit, cancel and retry one run of a kind per way."""
    runs = []
    for name, way in ways.items():
        run = await way.submit(kind, **params_of(name))
        await way.cancel(run)
        await way.retry(run)
        runs.append(run)
    return runs


async def test_a_run_of_every_kind_is_submitted_every_way_cancelled_retried_and_done_elsewhere(
    ways: Ways, ctx: JobContext, tmp_path: Path
) -> None:
    model = str(tiny_model(tmp_path / "tiny-llama"))
    training = {"model": model, "hook": "resid_post.1", "width": "64", "k": "4", "batch_size": "256", **TEXT}
    samples = {"browser": "300000"}  # some seconds, to be killed in the middle
    exports = tmp_path / "exports"

    waiting = await submit_each_way(
        ways, "train", lambda name: {**training, "samples": samples.get(name, "2000"), "name": name}
    )
    waiting += await submit_each_way(
        ways, "import", lambda name: {"source": str(EXPORTS / "saedashboard"), "name": f"{name}-import"}
    )
    async with worker(tmp_path / "first") as first:
        assert is_done_by(first, await until(is_training, ctx, waiting[0]))
        first.send_signal(signal.SIGKILL)
        await first.wait()
    async with worker(tmp_path / "second") as second:
        for run in waiting:
            assert is_done_by(second, await until(is_done, ctx, run))

    others = {"browser": "api", "api": "command", "command": "browser"}
    waiting = [
        *await submit_each_way(ways, "index", lambda name: {"sae": name, **TEXT}),
        *await submit_each_way(ways, "evaluate", lambda name: {"sae": name, "predictions": "64", **TEXT}),
        *await submit_each_way(
            ways,
            "export",
            lambda name: {"sae": name, "destination": str(exports / name), "format": "saelens"},
        ),
        *await submit_each_way(ways, "compare", lambda name: {"a": name, "b": others[name]}),
    ]
    positions = [(await run_row(ctx, run)).queue_position for run in waiting]
    assert positions == list(range(1, len(waiting) + 1))
    async with worker(tmp_path / "third") as third:  # it finds what the others wrote
        for run in waiting:
            assert is_done_by(third, await until(is_done, ctx, run))
    assert {folder.name for folder in exports.iterdir() if (folder / "cfg.json").exists()} == set(ways)
    for kind in ("train", "import", "index", "evaluate", "export", "compare"):
        assert len((await seesae("runs", "list", "--state", "done", "--kind", kind))["runs"]) == len(ways)


@pytest.mark.network
async def test_a_demo_is_submitted_every_way_cancelled_retried_and_done_elsewhere(
    ways: Ways, ctx: JobContext, tmp_path: Path
) -> None:
    link_packages(fetched_packages(), tmp_path / "elsewhere", ctx.settings.artifacts)
    numbers = dict(zip(ways, ("4", "5", "6"), strict=True))
    runs = await submit_each_way(ways, "demo", lambda name: {"tokens": "4096", "width": "64", "k": numbers[name]})
    for run in runs[:-1]:  # one is enough
        await ways["api"].cancel(run)
    async with worker(tmp_path / "elsewhere") as process:
        run = await until(is_done, ctx, runs[-1])
    assert is_done_by(process, run)
    assert run.result is not None
    assert run.result["sae"] == "smollm2-135m-l9-batchtopk-64-k6-t4096"
