"""The order in which the child processes of a site start."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.supervision import supervisor
from app.supervision.child_processes import Child, ChildSpec


class Started(Child):
    """A child that only says that it was started."""

    def __init__(self, name: str, started: list[str]) -> None:
        super().__init__(ChildSpec(name, (name,)), Path(), on_restart=lambda _line: None)
        self.started = started

    async def keep_running(self) -> None:
        if not self._stopping.is_set():
            self.started.append(self.spec.name)
        await self.stopped()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def site(started: list[str]) -> AsyncIterator[asyncio.Event]:
    loaded = asyncio.Event()
    after = {"web": None, "worker": loaded, "web-2": loaded, "inference": None}
    async with supervisor._kept_running([(Started(name, started), event) for name, event in after.items()]):
        await settle()
        yield loaded


async def test_the_worker_and_further_web_processes_wait_for_the_model() -> None:
    started: list[str] = []
    async with site(started) as loaded:
        assert started == ["web", "inference"]
        loaded.set()
        await settle()
        assert started == ["web", "inference", "worker", "web-2"]


async def test_what_has_not_started_when_the_site_stops_does_not_start() -> None:
    started: list[str] = []
    async with site(started):
        pass
    assert started == ["web", "inference"]
