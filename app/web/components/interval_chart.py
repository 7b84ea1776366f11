"""Values with their intervals on one axis, drawn without a script; the numbers stand beside each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One value with the ends of its interval; `text` is what stands beside it, `strong` marks the subject."""

    name: str
    value: float
    interval: tuple[float, float] | None
    text: str
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True, slots=True)
class DrawnRow:
    """A row with its places on the axis, in per cent of its width."""

    row: IntervalRow
    x: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class IntervalChart:
    """Rows on one axis with a line at a reference; places are in per cent of the axis' width."""

    title: str
    note: str
    rows: tuple[DrawnRow, ...]
    reference: float
    ticks: tuple[tuple[float, str], ...]


def interval_chart(
    title: str, note: str, rows: Sequence[IntervalRow], *, reference: float, form: Callable[[float], str]
) -> IntervalChart:
    """Place rows on an axis that holds all of them and the reference, with three to seven ticks."""
    ends: list[float] = [
        reference,
        *(end for row in rows for end in (row.value, *(row.interval or ())) if math.isfinite(end)),
    ]
    step = _step(max(ends) - min(ends))
    low, high = math.floor(min(ends) / step), math.ceil(max(ends) / step)
    high += low == high

    def place(value: float) -> float:
        return float(round(100 * (value / step - low) / (high - low), 2))

    drawn = tuple(
        DrawnRow(
            row,
            place(row.value),
            None if row.interval is None else place(row.interval[0]),
            None if row.interval is None else place(row.interval[1]),
        )
        for row in rows
    )
    ticks = tuple((place(number * step), form(number * step)) for number in range(low, high + 1))
    return IntervalChart(title, note, drawn, place(reference), ticks)


def _step(width: float) -> float:
    """Return the smallest of 1, 2, 5, 10, … times a power of ten of which at most five fit into `width`."""
    if not width > 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(width / 5))
    return next(size * power for size in (1, 2, 5, 10) if size * power >= width / 5)
