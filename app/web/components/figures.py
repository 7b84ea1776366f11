"""Charts as plotly figures. Colours are the sheet's custom properties, which `static/js/charts.js` resolves.

They are plain lists and dicts: plotly.py validates them in the tests. Here it would take a
third of a page's time and a third of the process' memory.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from app.queries.features import Histogram
from app.queries.runs import MetricPoint
from app.queries.saes import DensityHistogram
from app.web.components.formatting import count, percent, plural, round_percent, significant
from app.web.components.token_text import STEPS

T = TypeVar("T")

_MAX_POINTS = 400
"""Points per curve, which is a few hundred pixels wide."""


@dataclass(frozen=True, slots=True)
class Series:
    """Name, colour and dash of one of several lines that charts share."""

    name: str
    colour: str
    dash: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with its title, a note, and the same numbers as a table.

    `metric` names the measurement that a live chart continues with. `latest` is its last value as text, if it has one
    line; `series` are its lines, if it has several.
    """

    title: str
    note: str
    figure: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    metric: str = ""
    latest: str = ""
    series: tuple[Series, ...] = ()


def activation_histogram(histogram: Histogram, band_edges: Sequence[float], divided: str = "fifths") -> Chart:
    """Chart a feature's activations, with logarithmic counts and the edges of the bands; `divided` names the bands."""
    bins = list(pairwise(histogram.edges))
    maximum = histogram.edges[-1]
    bars = _bars(
        bins,
        histogram.counts,
        [[significant(low), significant(high)] for low, high in bins],
        "%{y:,} tokens<br>between %{customdata[0]} and %{customdata[1]}",
    )
    x = {"title": "activation", "range": [0, maximum], "ticks": "", "ticklabelstandoff": 6}
    y = {"title": "tokens (log)", **_log_counts(max(histogram.counts, default=1))}
    shapes = [*(_divider(edge) for edge in band_edges[1:-1]), *_ramp(maximum)]
    return Chart(
        title="Activations",
        note=f"tokens by how active the feature is; dotted lines divide them into {divided}",
        figure=figure([bars], x, y, shapes=shapes),
        columns=("from", "to", "tokens"),
        rows=tuple(
            (significant(low), significant(high), count(number))
            for (low, high), number in zip(bins, histogram.counts, strict=True)
        ),
    )


def _divider(edge: float) -> dict[str, Any]:
    line = {"color": "var(--ink-faint)", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": edge, "x1": edge, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _ramp(maximum: float) -> list[dict[str, Any]]:
    """Return the shades of tokens as a scale under the axis."""
    box = {"type": "rect", "yref": "paper", "y0": -0.045, "y1": -0.005, "line": {"width": 0}}
    return [
        box
        | {
            "x0": maximum * shade / STEPS,
            "x1": maximum * (shade + 1) / STEPS,
            "fillcolor": f"var(--act-{shade + 1})",
        }
        for shade in range(STEPS)
    ]


def density_histogram(histogram: DensityHistogram) -> Chart:
    """Chart the features by the logarithm of their density."""
    edges = histogram.edges
    bins = list(pairwise(edges))
    shares = [[percent(10**low), percent(10**high)] for low, high in bins]
    bars = _bars(
        bins,
        histogram.counts,
        shares,
        "%{y:,} features<br>active on %{customdata[0]} to %{customdata[1]} of tokens",
    )
    powers = range(math.ceil(edges[0]), math.floor(edges[-1]) + 1)
    x = {
        "title": "density: share of tokens that a feature is active on (log)",
        "range": [edges[0], edges[-1]],
        "tickvals": list(powers),
        "ticktext": [round_percent(10.0**power) for power in powers],
    }
    y = {"title": "features", "tickformat": ",", "rangemode": "tozero", "nticks": 5}
    return Chart(
        title="How often features fire",
        note=f"without {plural(histogram.dead, 'dead feature')}" if histogram.dead else "",
        figure=figure([bars], x, y),
        columns=("density from", "to", "features"),
        rows=tuple((*share, count(number)) for share, number in zip(shares, histogram.counts, strict=True)),
    )


def redundancy_histogram(counts: Sequence[int]) -> Chart:
    """Chart the features by the cosine of the decoder direction nearest to theirs."""
    edges = [place / len(counts) for place in range(len(counts) + 1)]
    bins = list(pairwise(edges))
    ends = [[f"{low:.3g}", f"{high:.3g}"] for low, high in bins]
    bars = _bars(
        bins, counts, ends, "%{y:,} features<br>whose nearest has a cosine of %{customdata[0]} to %{customdata[1]}"
    )
    x = {"title": "cosine to the nearest other decoder direction", "range": [0, 1], "nticks": 6}
    y = {"title": "features (log)", **_log_counts(max(counts, default=1))}
    return Chart(
        title="How redundant directions are",
        note="near 1, two features are redundant",
        figure=figure([bars], x, y),
        columns=("cosine from", "to", "features"),
        rows=tuple((*end, count(number)) for end, number in zip(ends, counts, strict=True)),
    )


def match_quality(measure: str, what: str, counts: Mapping[str, Sequence[int]], floor: float | None) -> Chart:
    """Chart the features by similarity to their best partner in another SAE: matched one to one, and the others.

    Args:
        measure: similarity measure, "cosine" or "correlation".
        what: quantities that it compares, for the title.
        counts: features in equal bins of the measure over 0 to 1, as "matched" and as "others".
        floor: threshold for a match.
    """
    matched, others = counts["matched"], counts["others"]
    edges = [place / len(matched) for place in range(len(matched) + 1)]
    bins = list(pairwise(edges))
    ends = [[f"{low:.2f}", f"{high:.2f}"] for low, high in bins]
    hover = f"{measure} %{{customdata[0]}} to %{{customdata[1]}}<br>%{{y:,}} features"
    bars = [
        _bars(bins, matched, ends, f"{hover} matched one to one"),
        _bars(bins, others, ends, f"{hover} not matched"),
    ]
    bars[1]["marker"] = {"color": "var(--line-strong)"}
    return Chart(
        title=f"By {measure} of {what}",
        note="solid: each is the other's best; pale: it is not, or too low",
        figure=figure(
            bars,
            {"title": f"best {measure}", "range": [0, 1], "tickformat": ".1f"},
            {"title": "features", "tickformat": ",", "rangemode": "tozero", "nticks": 5},
            barmode="stack",
            shapes=[] if floor is None else [_divider(floor)],
        ),
        columns=("from", "to", "matched", "not matched"),
        rows=tuple((*end, count(yes), count(no)) for end, yes, no in zip(ends, matched, others, strict=True)),
    )


@dataclass(frozen=True, slots=True)
class _Curve:
    metric: str
    title: str
    note: str
    axis: dict[str, Any]
    format_value: Callable[[float], str] = significant


_CURVES = (
    _Curve("loss", "Loss", "log", {"type": "log", "dtick": "D2", "tickformat": "~r"}),
    _Curve("explained_variance", "Explained variance", "share of 1", {"range": [0, 1], "tickformat": ".1f"}),
    _Curve("l0", "L0", "active features per token", {"rangemode": "tozero", "tickformat": "~s"}),
    _Curve(
        "dead_fraction",
        "Dead features",
        "of all",
        {"rangemode": "tozero", "tickformat": ".2~p", "autorangeoptions": {"include": 0.01}},
        percent,
    ),
    _Curve("l1_coefficient", "Price of activations", "λ, set to reach L0", {"type": "log", "dtick": "D2"}),
)


_COLOURS = ("var(--accent)", *(f"var(--series-{number})" for number in range(2, 7)))
_DASHES = ("solid", "dot", "dash", "dashdot")


def training_curves(points: Sequence[MetricPoint], only: str | None = None) -> list[Chart]:
    """Chart loss, explained variance, L0, dead features and λ over training, where they were measured.

    A run that trains several SAEs logs each under its name, as `name/loss`; `only` selects one of them.
    """
    names = list(dict.fromkeys(key.rpartition("/")[0] for point in points for key in point.values))
    if only in names:
        names = [only]
    charts = []
    for curve in _CURVES:
        lines = {
            name: measured for name in names if (measured := _measured(points, f"{name}/{curve.metric}".lstrip("/")))
        }
        if lines:
            charts.append(_curve_chart(curve, lines))
    return charts


def _measured(points: Sequence[MetricPoint], key: str) -> list[tuple[int, float]]:
    return [(point.step, value) for point in points if (value := point.values.get(key)) is not None]


def _curve_chart(curve: _Curve, lines: Mapping[str, Sequence[tuple[int, float]]]) -> Chart:
    series = tuple(
        Series(name, _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)])
        for number, name in enumerate(lines)
    )
    traces = [_line(curve, line, lines[line.name]) for line in series]
    x = {"title": "training samples", "tickformat": "~s", "nticks": 5}
    return Chart(
        title=curve.title,
        note=curve.note,
        figure=figure(traces, x, {"nticks": 4, **curve.axis}),
        columns=(*(["SAE"] if len(series) > 1 else []), "samples", curve.title.lower()),
        rows=tuple(
            (*([name] if len(series) > 1 else []), count(step), significant(value, 4))
            for name, measured in lines.items()
            for step, value in downsample(measured, 40)
        ),
        metric=curve.metric,
        latest=curve.format_value(next(iter(lines.values()))[-1][1]) if len(series) == 1 else "",
        series=series if len(series) > 1 else (),
    )


def _line(curve: _Curve, series: Series, measured: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Return a line; its `meta` is the key of its further points in server-sent events."""
    points = downsample(measured)
    prefix = f"{series.name}<br>" if series.name else ""
    return {
        "type": "scatter",
        "x": [step for step, _ in points],
        "y": [value for _, value in points],
        "mode": "lines",
        "meta": f"{series.name}/{curve.metric}".lstrip("/"),
        "line": {"color": series.colour, "width": 1.75, "dash": series.dash},
        "hovertemplate": f"{prefix}%{{y:.4~r}} after %{{x:,}} samples<extra></extra>",
    }


def downsample(values: Sequence[T], limit: int = _MAX_POINTS) -> list[T]:
    """Return at most `limit` of `values`, evenly spaced, including the first and the last."""
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]


def _bars(
    bins: Sequence[tuple[float, float]], counts: Sequence[int], ends: Sequence[Sequence[str]], hover: str
) -> dict[str, Any]:
    """Return one bar per bin; `ends` are the bins' ends as text for `hover`."""
    return {
        "type": "bar",
        "x": [(low + high) / 2 for low, high in bins],
        "y": list(counts),
        "width": [high - low for low, high in bins],
        "marker": {"color": "var(--chart-bar)"},
        "customdata": [list(end) for end in ends],
        "hovertemplate": f"{hover}<extra></extra>",
    }


def _log_counts(highest: int) -> dict[str, Any]:
    """Return a logarithmic axis of counts that starts below 1, so that a bin with one token has a bar."""
    return {"type": "log", "dtick": 1, "tickformat": ",", "range": [math.log10(0.6), math.log10(max(highest, 1) * 1.6)]}


def figure(traces: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> dict[str, Any]:
    """Return a figure with the layout that all charts share."""
    return {
        "data": traces,
        "layout": {
            "autosize": True,
            "showlegend": False,
            "dragmode": False,
            "hovermode": "x",
            "bargap": 0.08,
            "margin": {"l": 52, "r": 8, "t": 8, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "var(--ink-faint)", "size": 12},
            "hoverlabel": {
                "bgcolor": "var(--ink)",
                "bordercolor": "var(--ink)",
                "font": {"color": "var(--paper)"},
            },
            "xaxis": _axis(x) | {"showline": True, "showgrid": False},
            "yaxis": _axis(y) | {"showline": False, "gridcolor": "var(--line)"},
            **layout,
        },
    }


def _axis(own: dict[str, Any]) -> dict[str, Any]:
    title = {"text": own.get("title", ""), "standoff": 8, "font": {"size": 12}}
    return {**own, "title": title, "fixedrange": True, "zeroline": False, "linecolor": "var(--line-strong)"}
