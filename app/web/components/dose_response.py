"""The dose–response of a feature as a drawing that needs no script, with its numbers as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.web.components.figures import Chart
from app.web.components.formatting import signed, significant

WIDTH, HEIGHT = 320, 170
"""Of the drawing's box."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 20, 10, 26


@dataclass(frozen=True, slots=True)
class Dose:
    """One dose: its place, those of the ends of its interval, and its name."""

    x: float
    y: float
    low: float | None
    high: float | None
    name: str


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """A drawing in a box of `WIDTH` by `HEIGHT`; `chart` has the title and the numbers."""

    chart: Chart
    doses: tuple[Dose, ...]
    line: str
    """Points of a polyline."""
    levels: tuple[tuple[float, str], ...]
    """Heights of KL that are marked, and their names."""
    summary: str
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def dose_response(points: Sequence[Mapping[str, Any]]) -> DoseResponse:
    """Draw the KL of adding a feature by what is added. There is at least one dose."""
    ends = [point["kl_interval"] or (point["kl"], point["kl"]) for point in points]
    step = _round_up(max(max(point["kl"], high) for point, (_, high) in zip(points, ends, strict=True)) / 2)

    def height(kl: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * kl / (2 * step), 1)

    gap = (WIDTH - _LEFT - _RIGHT) / max(len(points) - 1, 1)
    doses = tuple(
        Dose(
            x=round(_LEFT + gap * number, 1),
            y=height(point["kl"]),
            low=height(low) if point["kl_interval"] else None,
            high=height(high) if point["kl_interval"] else None,
            name=f"{significant(point['dose'], 1)} ×",
        )
        for number, (point, (low, high)) in enumerate(zip(points, ends, strict=True))
    )
    first, last = points[0], points[-1]
    return DoseResponse(
        chart=Chart(
            title="Added, by dose",
            note="KL in nats; doses are multiples of its strongest activation on the held-out text",
            figure={},
            columns=("dose", "KL", "interval", "rise of the loss", "tokens"),
            rows=tuple(
                (
                    f"{significant(point['dose'], 1)} ×",
                    significant(point["kl"], 2),
                    "–".join(significant(end, 2) for end in point["kl_interval"] or ()),
                    signed(point["delta_loss"]),
                    str(point["tokens"]),
                )
                for point in points
            ),
        ),
        doses=doses,
        line=" ".join(f"{dose.x},{dose.y}" for dose in doses),
        levels=tuple((height(level * step), significant(level * step, 1)) for level in range(3)),
        summary=f"KL is {significant(first['kl'], 2)} at {doses[0].name} and {significant(last['kl'], 2)} at "
        f"{doses[-1].name}. The numbers are in the table below it.",
    )


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2, 5, 10, … times a power of ten that is not below `value`."""
    if not value > 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(size * power for size in (1, 2, 5, 10) if size * power >= value)
