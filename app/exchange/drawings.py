"""Histograms as markup that needs no script: an SVG path that stretches, and labels that do not.

Places are per cent of the drawing's box, from the left and from the bottom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app.queries.features import Histogram
from app.queries.saes import DensityHistogram
from app.web.components.figures import Chart, activation_histogram, density_histogram
from app.web.components.formatting import count, round_percent, significant


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis and its place."""

    place: float
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A histogram; `chart` has its title and its numbers as a table. `bars` is a path in a box of 100 by 100."""

    chart: Chart
    bars: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    x_title: str
    y_title: str
    dividers: tuple[float, ...] = ()
    ramp: bool = False


def draw_activations(histogram: Histogram, band_edges: Sequence[float], divided: str) -> Drawing:
    """How often a feature is how active, on a logarithmic count."""
    maximum = histogram.edges[-1]
    low, high = math.log10(0.6), math.log10(max(histogram.counts) * 1.6)
    powers = range(math.ceil(low), math.floor(high) + 1)

    def height(value: float) -> float:
        return 100 * (math.log10(value) - low) / (high - low)

    return Drawing(
        chart=activation_histogram(histogram, band_edges, divided=divided),
        bars=_bars([height(value) if value else 0.0 for value in histogram.counts]),
        x=tuple(Tick(100 * quarter / 4, significant(maximum * quarter / 4)) for quarter in range(5)),
        y=tuple(Tick(height(10**power), count(10**power)) for power in powers),
        x_title="activation",
        y_title="tokens (log)",
        dividers=tuple(100 * edge / maximum for edge in band_edges[1:-1]),
        ramp=True,
    )


def draw_densities(histogram: DensityHistogram) -> Drawing:
    """How many features are how dense, over the logarithm of density."""
    low, high = histogram.edges[0], histogram.edges[-1]
    most = max(histogram.counts, default=0) or 1
    step = _round_step(most / 3)
    powers = range(math.ceil(low), math.floor(high) + 1)
    return Drawing(
        chart=density_histogram(histogram),
        bars=_bars([95 * value / most for value in histogram.counts]),
        x=tuple(Tick(100 * (power - low) / (high - low), round_percent(10.0**power)) for power in powers),
        y=tuple(Tick(95 * value / most, count(value)) for value in range(0, most + 1, step)),
        x_title="density: share of tokens that a feature is active on (log)",
        y_title="features",
    )


def _round_step(wanted: float) -> int:
    """The largest of 1, 2, 5, 10, 20, … that is not above `wanted`, and at least 1."""
    power = 10 ** math.floor(math.log10(max(1.0, wanted)))
    return max(each for each in (1, power, 2 * power, 5 * power) if each <= max(1.0, wanted))


def _bars(heights: Sequence[float]) -> str:
    """A filled bar for each height, with a gap to the next."""
    width = 100 / max(1, len(heights))
    gap = 0.08 * width
    return "".join(
        f"M{place * width + gap / 2:.2f} 100v-{height:.2f}h{width - gap:.2f}v{height:.2f}z"
        for place, height in enumerate(heights)
        if height > 0
    )
