"""A sweep as charts: what each strength does, beside the control, and where the text collapses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.services.sweep import Point, Swept
from app.web.components.figures import Chart, figure
from app.web.components.formatting import significant


@dataclass(frozen=True, slots=True)
class _Measure:
    title: str
    note: str
    of: Callable[[Point], float | None]
    unsteered: Callable[[Swept], float]


_MEASURES = (
    _Measure("Change", "mean KL from the model as it is, nats", lambda point: point.kl, lambda _: 0.0),
    _Measure(
        "Loss",
        "on the text that the model writes as it is, nats per token",
        lambda point: point.loss,
        lambda swept: swept.start.loss,
    ),
    _Measure(
        "Repetition",
        "share of 3-grams that came before",
        lambda point: point.repetition,
        lambda swept: swept.start.repetition,
    ),
    _Measure("Promoted tokens", "rise of their summed probability", lambda point: point.promoted, lambda _: 0.0),
)


def sweep_charts(swept: Swept) -> list[Chart]:
    """Chart each measure by strength, evenly spaced; promoted tokens only where there are some."""
    return [
        _chart(measure, swept) for measure in _MEASURES if any(measure.of(point) is not None for point in swept.points)
    ]


def _chart(measure: _Measure, swept: Swept) -> Chart:
    own, control = swept.series(control=False), swept.series(control=True)
    strengths = [point.value for point in own]
    traces = [_line("unsteered", "var(--ink-faint)", "dot", [measure.unsteered(swept)] * len(own), strengths)]
    traces[0] |= {"mode": "lines", "hoverinfo": "skip", "hovertemplate": None}
    if control:
        traces.append(_line("control", "var(--series-2)", "dash", [measure.of(point) for point in control], strengths))
    traces.append(_line("steered", "var(--accent)", "solid", [measure.of(point) for point in own], strengths))
    collapse = swept.collapse()
    shapes = [] if collapse is None else [_collapse(strengths.index(collapse))]
    x = {
        "title": "strength",
        "tickvals": list(range(len(strengths))),
        "ticktext": [significant(value) for value in strengths],
        "range": [-0.3, len(strengths) - 0.7],
    }
    return Chart(
        title=measure.title,
        note=measure.note,
        figure=figure(traces, x, {"nticks": 4, "rangemode": "tozero"}, shapes=shapes),
        columns=("strength", "steered", *(("control",) if control else ())),
        rows=tuple(
            (significant(point.value), *(significant(measure.of(one)) for one in (point, *control[place : place + 1])))
            for place, point in enumerate(own)
        ),
    )


def _line(
    name: str, colour: str, dash: str, values: Sequence[float | None], strengths: Sequence[float]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": list(range(len(strengths))),
        "y": list(values),
        "mode": "lines+markers",
        "marker": {"color": colour, "size": 5},
        "line": {"color": colour, "width": 1.75, "dash": dash},
        "customdata": [significant(value) for value in strengths],
        "hovertemplate": f"{name} at %{{customdata}}: %{{y:.3~r}}<extra></extra>",
    }


def _collapse(place: int) -> dict[str, Any]:
    line = {"color": "var(--error)", "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": place, "x1": place, "yref": "paper", "y0": 0, "y1": 1, "line": line}
