"""Thirty-two people probe and four steer at once: a real inference process and a real site, over HTTP."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.inference_status import SECRET_HEADER
from tests.app.inference.dictionaries import SLUG, Dictionary, activations, publish
from tests.web.site import SECRET

pytestmark = pytest.mark.slow

PEOPLE = 32
EACH = 3
"""Probes per person, one after the other."""
STEERING = 4
SECONDS = 60.0
UP_SECONDS = 1.0
"""Longest that /healthz may take on a machine that also runs other tests; `seesae bench probe` measures it."""
PROBE = f"/api/v1/saes/{SLUG}/probe"
GENERATE = f"/api/v1/saes/{SLUG}/generate"


@dataclass(frozen=True)
class Processes:
    """Addresses of the two processes."""

    site: str
    inference: str


@contextmanager
def process(*arguments: str, log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")}
    environment |= {f"SEESAE_{name.upper()}": value for name, value in settings.items()} | {"OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "app.cli", *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture
async def processes(
    engine: AsyncEngine,
    database_url: str,
    dictionary: Dictionary,
    tmp_path: Path,
    unused_tcp_port_factory: Callable[[], int],
) -> AsyncIterator[Processes]:
    """Both processes, with the model loaded."""
    await publish(engine, dictionary)
    ports = [str(unused_tcp_port_factory()) for _ in range(2)]
    found = Processes(*(f"http://127.0.0.1:{port}" for port in ports))
    shared = {"database_url": database_url, "inference_secret": SECRET, "artifacts": str(dictionary.settings.artifacts)}
    with (
        process("web", "--port", ports[0], log=tmp_path / "web.log", inference_url=found.inference, **shared),
        process("inference", "--port", ports[1], log=tmp_path / "inference.log", device="cpu", **shared),
    ):
        async with asyncio.timeout(SECONDS):
            while not await answers_probes(found.site):  # noqa: ASYNC110 (other processes change it)
                await asyncio.sleep(0.1)
        yield found


async def answers_probes(site: str) -> bool:
    try:
        async with person(0, site) as client:
            return (await client.post(PROBE, json={"text": "x"})).is_success
    except httpx.ConnectError:
        return False


@contextmanager
def asking_whether_it_is_up(*addresses: str) -> Iterator[list[float]]:
    """Ask processes all the time whether they are up; yields the seconds that each answer took."""
    took: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=SECONDS, trust_env=False) as client:
            while not stop.wait(0.02):
                for address in addresses:
                    began = time.perf_counter()
                    client.get(f"{address}/healthz").raise_for_status()
                    took.append(time.perf_counter() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def person(number: int, site: str) -> httpx.AsyncClient:
    """A client that the site tells apart from others by its cookie."""
    return httpx.AsyncClient(base_url=site, timeout=SECONDS, headers={"Cookie": f"author={number}"}, trust_env=False)


async def metric(address: str, name: str) -> float:
    async with httpx.AsyncClient(base_url=address, headers={SECRET_HEADER: SECRET}, trust_env=False) as client:
        lines = (await client.get("/metrics")).raise_for_status().text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


async def test_all_are_answered_with_what_they_asked_for_while_the_processes_say_that_they_are_up(
    processes: Processes, dictionary: Dictionary
) -> None:
    texts = [f"It was the best of times, number {number}. " * 8 for number in range(PEOPLE)]

    async def ask(number: int) -> None:
        best = activations(dictionary, texts[number]).max(dim=0).values
        async with person(number, processes.site) as client:
            for _ in range(EACH):
                answer = await client.post(PROBE, json={"text": texts[number], "top_k": 64})
                assert answer.status_code == httpx.codes.OK, answer.text
                for feature in answer.json()["features"]:
                    assert max(feature["activations"]) == pytest.approx(best[feature["index"]].item(), rel=1e-3)

    async def steer(number: int) -> dict[str, Any]:
        change = {"op": "add", "value": 20, "feature": number}
        async with person(PEOPLE + number, processes.site) as client:
            answer = await client.post(
                GENERATE, json={"text": texts[number], "interventions": [change], "max_new_tokens": 30}
            )
        assert answer.status_code == httpx.codes.OK, answer.text
        found: dict[str, Any] = answer.json()
        return found

    alone = [await steer(number) for number in range(STEERING)]
    with asking_whether_it_is_up(processes.site, processes.inference) as took:
        answers = await asyncio.gather(
            *(steer(number) for number in range(STEERING)), *(ask(number) for number in range(PEOPLE))
        )
    assert list(answers[:STEERING]) == alone  # to the bit: neither hooks nor caches of one reach another
    assert len({tuple(answer["changed"]["token_ids"]) for answer in alone}) > 1
    assert len(took) > 2
    assert max(took) < UP_SECONDS


async def test_those_who_leave_free_the_queue(processes: Processes) -> None:
    text = "It was the best of times. " * 24

    async def ask(number: int) -> None:
        async with person(number, processes.site) as client:
            while True:  # the tiny model may be faster than the site that asks it
                await client.post(PROBE, json={"text": text})

    waiting, gone = 'seesae_inference_waiting{queue="model"}', 'seesae_inference_refusals_total{reason="ClientGone"}'
    async with asyncio.timeout(SECONDS):
        while not await metric(processes.inference, gone):  # all may be answered before it is seen that they left
            people = [asyncio.create_task(ask(number)) for number in range(PEOPLE)]
            while await metric(processes.inference, waiting) < PEOPLE / 8:
                assert not any(task.done() for task in people), "a request failed"
            for task in people:
                task.cancel()
            await asyncio.gather(*people, return_exceptions=True)
            while await metric(processes.inference, waiting):
                pass
    async with person(PEOPLE, processes.site) as client:
        assert (await client.post(PROBE, json={"text": text})).status_code == httpx.codes.OK
