from typing import Any

import pytest

from app.services.interpretability import interpretability_verdict, read_interpretability


def stored(beyond: tuple[float, float, float] | None = (0.2, 0.1, 0.3), **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"model": "small", "seed": 0, "live": 60, "features": 12, "suggested": 11}
    found |= {"detection": 0.75, "detection_interval": [0.7, 0.8], "detection_labels": 10, "detection_floor": None}
    if beyond is not None:
        value, low, high = beyond
        found |= {"detection_floor": 0.55, "detection_beyond_floor": value}
        found |= {"detection_beyond_floor_interval": [low, high]}
    return {"interpretability": found | changes}


def verdict(metrics: dict[str, Any]) -> str:
    return " ".join(interpretability_verdict(read_interpretability(metrics)))


@pytest.mark.parametrize(
    ("beyond", "says"),
    [
        ((0.2, 0.1, 0.3), "better than labels of other features, which score 0.55 (+0.20, 0.10 to 0.30)"),
        ((0.1, 0.0, 0.2), "not shown to differ from labels of other features"),
        ((-0.1, -0.2, -0.05), "worse than labels of other features"),
        ((0.1, 0.004, 0.2), "not shown to differ from"),
    ],
)
def test_the_interval_beyond_the_floor_decides(beyond: tuple[float, float, float], says: str) -> None:
    said = verdict(stored(beyond))
    assert says in said
    assert "for 10 of its features" in said and "0.75 (0.70 to 0.80; guessing scores 0.50)" in said


def test_without_a_floor_only_the_score_is_said() -> None:
    assert verdict(stored(None)).endswith("(0.70 to 0.80; guessing scores 0.50).")


def test_what_was_not_measured_says_nothing() -> None:
    assert read_interpretability({}) is None
    assert interpretability_verdict(None) == []
    metrics = {"interpretability": {"model": "small", "live": 9, "features": 3, "suggested": 0}}
    assert verdict(metrics) == "None of the labels could be tested."
