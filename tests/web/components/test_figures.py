"""Figures are valid for plotly, are plain JSON, and say what their tables say."""

import json
from typing import Any

import plotly.graph_objects as go
import pytest

from app.queries.features import Histogram
from app.queries.runs import MetricPoint
from app.queries.saes import DensityHistogram
from app.web.components import figures
from app.web.components.figures import Chart
from app.web.rendering import environment
from tests.web.html import parse

HISTOGRAM = Histogram(edges=tuple(i / 5 for i in range(51)), counts=(0, 1, *range(500, 20, -10)))
POINTS = [
    MetricPoint(
        step, {"loss": 1 / (step + 1), "explained_variance": 0.8, "l0": 32.0, "dead_fraction": 0.01, "lr": 1e-4}
    )
    for step in range(1000)
]


def activation() -> Chart:
    return figures.activation_histogram(HISTOGRAM, (0.1, 1, 2, 3, 5, 10))


def density() -> Chart:
    edges = tuple(-5 + i / 8 for i in range(41))
    return figures.density_histogram(DensityHistogram(edges=edges, counts=tuple(range(40)), dead=3))


CHARTS = [activation(), density(), *figures.training_curves(POINTS)]


def colours(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [
            colour
            for key, item in value.items()
            for colour in ([item] if "color" in key and isinstance(item, str) else colours(item))
        ]
    if isinstance(value, list | tuple):
        return [colour for item in value for colour in colours(item)]
    return []


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_figures_are_valid_small_json_in_the_pages_colours(chart: Chart) -> None:
    text = json.dumps(chart.figure, allow_nan=False)
    go.Figure(json.loads(text))
    assert len(text) < 16_000
    assert {colour for colour in colours(chart.figure) if not colour.startswith("var(--")} <= {"rgba(0,0,0,0)"}
    assert "template" not in chart.figure["layout"]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_tables_have_a_row_for_what_is_drawn(chart: Chart) -> None:
    assert chart.rows
    assert {len(row) for row in chart.rows} == {len(chart.columns)}


def test_activation_bars_are_the_histogram() -> None:
    (bars,) = activation().figure["data"]
    assert tuple(bars["y"]) == HISTOGRAM.counts
    assert bars["x"][0] == pytest.approx(0.1)
    assert activation().rows[2] == ("0.400", "0.600", "500")


def test_density_axis_is_in_shares_and_dead_features_are_said() -> None:
    axis = density().figure["layout"]["xaxis"]
    assert dict(zip(axis["tickvals"], axis["ticktext"], strict=True))[-3] == "0.1\u202f%"
    assert density().note == "without 3 dead features"


def test_curves_are_those_that_were_measured() -> None:
    assert [chart.metric for chart in figures.training_curves(POINTS)] == [
        "loss",
        "explained_variance",
        "l0",
        "dead_fraction",
    ]
    assert [chart.metric for chart in figures.training_curves([MetricPoint(0, {"loss": 1.0})])] == ["loss"]
    assert figures.training_curves([]) == []


def test_the_last_value_is_said_in_its_unit() -> None:
    charts = figures.training_curves([MetricPoint(1, {"l0": 32.0, "dead_fraction": 0.000244})])
    assert [chart.latest for chart in charts] == ["32.0", "0.024\u202f%"]


def test_long_curves_are_thinned_with_both_ends() -> None:
    loss = figures.training_curves(POINTS)[0].figure["data"][0]
    assert len(loss["x"]) == 400
    assert (loss["x"][0], loss["x"][-1]) == (0, 999)
    assert figures.downsample([1, 2, 3]) == [1, 2, 3]


def test_figures_cannot_end_their_script() -> None:
    chart = Chart("</script>", "<b>", {"data": ["</script><script>alert(1)"]}, ("<i>",), (("<u>",),))
    html = str(environment().get_template("macros/charts.html").module.chart(chart))
    tree = parse(html)
    assert json.loads(tree.one("script").text) == chart.figure
    assert not tree.all("b")[1:]
    assert not tree.all("i")
    assert not tree.all("u")
