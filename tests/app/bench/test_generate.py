"""The benchmark of generation, on a tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bench import generate as bench
from sae_core.interventions import Intervention, Site
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
