"""What a model's labels of an SAE's features score, as the page of the SAE shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.services.interpretability import (
    Interpretability,
    LabelScore,
    interpretability_verdict,
    read_interpretability,
)
from app.web.components.formatting import count, plain, plural
from app.web.components.interval_chart import IntervalChart, IntervalRow, interval_chart


@dataclass(frozen=True, slots=True)
class InterpretabilityView:
    """A verdict, and the scores as a chart."""

    verdict: Sequence[str]
    chart: IntervalChart
    about: str


def interpretability_view(metrics: Mapping[str, Any]) -> InterpretabilityView | None:
    """Return what the page shows; None where no label was tested."""
    found = read_interpretability(metrics)
    if found is None or found.detection is None:
        return None
    return InterpretabilityView(interpretability_verdict(found), _chart(found), _about(found))


def _chart(found: Interpretability) -> IntervalChart:
    tests = (("in which texts", found.detection), ("on which tokens", found.fuzzing))
    return interval_chart(
        "Balanced accuracy from the label alone",
        "mean over features, with 95 % intervals; guessing scores 0.5",
        [row for name, score in tests if score is not None for row in _rows(name, score)],
        reference=0.5,
        form=plain,
    )


def _rows(name: str, score: LabelScore) -> list[IntervalRow]:
    own = score.own
    text = f"{own.value:.2f}, {own.low:.2f} to {own.high:.2f}"
    rows = [IntervalRow(name, own.value, (own.low, own.high), text, plural(score.labels, "label"), strong=True)]
    if score.floor is not None:
        rows.append(IntervalRow("labels of other features", score.floor, None, f"{score.floor:.2f}", "the same texts"))
    return rows


def _about(found: Interpretability) -> str:
    return (
        f"{count(found.features)} of {count(found.live)} live features were drawn at random; {found.model} labelled "
        f"{count(found.suggested)} of them, and did not see the held-out texts. Texts are half of those in which the "
        "feature is active, from its whole range."
    )
