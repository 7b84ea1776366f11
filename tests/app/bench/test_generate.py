"""The benchmark of generation, on a tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bench import generate as bench
from sae_core.interventions import Intervention, Site, Step
from sae_core.models import HookPoint, load_model
from tests.core.interventions.conftest import TEXT, random_sae
from tests.tiny import tiny_model


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Rates at which each way writes 4, 2 and 8 tokens a second, by a clock of the test."""
    model = load_model(tiny_model(tmp_path))
    clock = {"now": 0.0}
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(bench.time, "sleep", lambda _seconds: None)
    seconds = {"default": 0.25, "changed": 0.5, "theirs": 0.125}

    def slowed(way: Callable[..., int], name: Callable[..., str]) -> Callable[..., int]:
        def run(*args: Any) -> int:
            written = way(*args)
            clock["now"] += written * seconds[name(*args)]
            return written

        return run

    monkeypatch.setattr(bench, "_ours", slowed(bench._ours, lambda *args: "changed" if args[2] else "default"))
    monkeypatch.setattr(bench, "_theirs", slowed(bench._theirs, lambda *_args: "theirs"))
    site = Site(HookPoint("resid_post", 1), [Intervention("clamp", 2.0, feature=0)], random_sae())
    return bench.rates(model, model.tokenize(TEXT), [site], tokens=9, rounds=3)


def test_shares_are_of_the_way_that_the_target_names(measured: dict[str, Any]) -> None:
    assert measured["floor_tokens_per_s"] == 8
    assert measured["default_tokens_per_s"] == 4
    assert measured["changed_tokens_per_s"] == 2
    assert measured["default_share"] == 0.5  # of transformers' own loop
    assert measured["changed_share"] == 0.5  # of our default


def test_the_watched_share_is_of_neighbouring_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_model(tmp_path))
    clock = {"now": 0.0}
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock["now"])

    def slowed(way: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            for event in way(*args):
                clock["now"] += seconds * isinstance(event, Step)
                yield event

        return run

    monkeypatch.setattr(bench, "HOOK", HookPoint("resid_post", 1))
    monkeypatch.setattr(bench, "generate", slowed(bench.generate, 0.2))
    monkeypatch.setattr(bench, "generate_watched", slowed(bench.generate_watched, 0.25))
    monitor = bench._monitor(random_sae("topk"))
    found = bench.watched_rates(model, model.tokenize(TEXT), monitor, tokens=5, rounds=2)
    assert found["watched_share"] == found["watched_share_low"] == found["watched_share_high"] == 0.8
    assert (found["watched_tokens_per_s"], found["watched_pairs"]) == (4, 10)
