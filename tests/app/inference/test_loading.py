"""Loading beside the requests, with loads that a test ends when it likes."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.errors import Loading, Unavailable
from app.inference.engine import ProbeEngine
from app.inference.loading import Loads, LoadTimes
from app.inference.residency import Residency
from app.inference.scheduler import Scheduler
from app.services.inference_messages import SaeRef
from sae_core.models import LanguageModel, load_model
from tests.app.inference.dictionaries import Dictionary


class Gate:
    """Keeps models from being loaded until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.loads = 0
        monkeypatch.setattr("app.inference.residency.load_model", self._load)
        monkeypatch.setattr("app.inference.loading.PATIENCE", 0.01)

    def _load(self, source: str, **options: Any) -> LanguageModel:
        self.loads += 1
        assert self.open.wait(30)
        return load_model(source, **options)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def loads_of(dictionary: Dictionary, times: Path) -> Loads:
    engine = ProbeEngine(Residency(dictionary.settings), 100)
    return Loads(engine, Scheduler(1, 4), LoadTimes(times))


async def loaded(loads: Loads, dictionary: Dictionary) -> None:
    """Ask until it is loaded, as a page does."""
    while True:
        try:
            await loads.ensure(dictionary.ref)
        except Loading:
            continue
        return


async def test_a_load_that_takes_long_goes_on_beside_the_requests(
    dictionary: Dictionary, tmp_path: Path, gate: Gate
) -> None:
    loads = loads_of(dictionary, tmp_path / "times.json")
    for _ in range(3):
        with pytest.raises(Loading, match=r"The model tiny is being loaded: 0 s so far\. Try again in 5 s"):
            await loads.ensure(dictionary.ref)
    gate.open.set()
    await loaded(loads, dictionary)
    await loads.ensure(dictionary.ref)
    assert gate.loads == 1


async def test_the_next_load_is_told_the_time_of_the_last(dictionary: Dictionary, tmp_path: Path, gate: Gate) -> None:
    times = tmp_path / "cache" / "times.json"
    gate.open.set()
    await loaded(loads_of(dictionary, times), dictionary)
    gate.open.clear()
    loads = loads_of(dictionary, times)  # of the process that was started after a kill
    with pytest.raises(Loading, match="1 s the last time") as caught:
        await loads.ensure(dictionary.ref)
    assert caught.value.expected is not None
    gate.open.set()
    await loaded(loads, dictionary)


async def test_what_keeps_a_model_from_loading_is_said_once_and_then_tried_again(
    dictionary: Dictionary, tmp_path: Path, gate: Gate
) -> None:
    broken = replace(dictionary.ref, model=replace(dictionary.ref.model, source="/nowhere/at/all"))
    loads = loads_of(dictionary, tmp_path / "times.json")
    with pytest.raises(Loading):
        await loads.ensure(broken)
    gate.open.set()
    with pytest.raises(Unavailable, match="cannot be loaded") as caught:
        await asyncio.wait_for(_ask_until_it_fails(loads, broken), 30)
    assert "/nowhere" not in str(caught.value)
    await loaded(loads, dictionary)  # another is not kept from loading


async def _ask_until_it_fails(loads: Loads, broken: SaeRef) -> None:
    while True:
        try:
            await loads.ensure(broken)
        except Loading:
            continue


async def test_damaged_times_are_measured_again(dictionary: Dictionary, tmp_path: Path, gate: Gate) -> None:
    times = tmp_path / "times.json"
    times.write_text("[1]")
    gate.open.set()
    await loaded(loads_of(dictionary, times), dictionary)
    assert (LoadTimes(times).get(dictionary.ref.model.weights_sha256) or 0) > 0
