"""Child processes of the supervisor: start, log, restart after a death, stop within seconds."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.supervision.parent_watchdog import SUPERVISED

STOP_SECONDS = 8.0
"""Time that a child has to exit after SIGTERM before it is killed."""

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_HEALTHY_SECONDS = 30.0
"""A child that lived this long is restarted without the delay that earlier deaths built up."""

_LOG_BYTES = 20_000_000
"""A larger log is rotated when its child starts; one older file is kept."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A command of `seesae`, with its environment and the listening sockets that it inherits."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    file_descriptors: tuple[int, ...] = ()

    @property
    def command(self) -> list[str]:
        """Command line for this Python interpreter."""
        return [sys.executable, "-m", "app.cli", *self.arguments]


class Child:
    """One child process that is kept running until `stop`."""

    def __init__(self, spec: ChildSpec, log_folder: Path, *, on_restart: Callable[[str], None]) -> None:
        self.spec = spec
        self.log_path = log_folder / f"{spec.name}.log"
        self.restarts = 0
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id of the running child; None between two runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def keep_running(self) -> None:
        """Start the child, and start it again whenever it ends, waiting longer after each quick death.

        Returns once `stop` was called and the child is gone.
        """
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            started = time.monotonic()
            returncode = await self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _HEALTHY_SECONDS:
                delay = _FIRST_DELAY
            self.restarts += 1
            self._on_restart(
                f"The {self.spec.name} process ended ({_describe(returncode)}); starting it again in {delay:g} s. "
                f"Its log: {self.log_path}"
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    def stop(self) -> None:
        """Ask the child to exit; `keep_running` then returns."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Return once `stop` was called."""
        await self._stopping.wait()

    async def _run_once(self) -> int:
        """Run the child until it exits or is stopped; return its exit status."""
        process = self._process = await self._start()
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done():
            process.terminate()
            await asyncio.wait({ended}, timeout=STOP_SECONDS)
            if not ended.done():
                process.kill()
        return await ended

    async def _start(self) -> asyncio.subprocess.Process:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *self.spec.command,
                stdin=asyncio.subprocess.PIPE,  # its end tells the child that we are gone: see parent_watchdog
                stdout=output,
                stderr=output,
                env={**os.environ, **self.spec.environment, SUPERVISED: "1"},
                pass_fds=self.spec.file_descriptors,
                start_new_session=True,  # Ctrl-C must reach only the supervisor, which stops the children in order
            )


def _describe(returncode: int) -> str:
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
