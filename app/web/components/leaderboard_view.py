"""The leaderboard of a model's SAEs as its page shows it: tables that sort, and the frontier as charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from app.services.evaluation import evaluate_command
from app.services.leaderboard import (
    Entry,
    Fidelity,
    Group,
    HeldOutText,
    Leaderboard,
    Measured,
    Order,
    Sort,
    default_order,
)
from app.web.components import glossary
from app.web.components.figures import Chart, figure
from app.web.components.formatting import count, percent, plural, significant
from sae_core.statistics.spec import PARTNER

_LOG_FROM = 8
"""L0 is on a logarithmic axis where the largest is this many times the smallest, or more."""
_COLUMNS: Mapping[Sort, tuple[str, str]] = {
    "name": ("SAE", "by name"),
    "l0": ("L0", "active features per token, on average"),
    "explained_variance": ("explained variance", "share of the activations' variance that the SAE rebuilds"),
    "ce_recovered": ("loss recovered", "of the model's loss, against replacing the activations by their mean"),
    "dead": (
        "dead, held out",
        "features never active on the held-out tokens, which are few: the overview counts the whole index",
    ),
    "probing": (
        "against a random dictionary",
        "text sets that one, two and five features tell better, or worse, than random directions do",
    ),
    "stability": (
        "stable",
        f"features with a partner of cosine {PARTNER} or more in an SAE that differs in its seed alone",
    ),
    "d_sae": ("features", "width of the dictionary"),
    "samples": ("samples", "activations that it was trained on"),
    "architecture": ("architecture", "as it was trained"),
}
_FIDELITY: Mapping[Fidelity, str] = {"explained_variance": "explained variance", "ce_recovered": "loss recovered"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading: a link that sorts by it, `sorted` as `aria-sort` has it if the table is."""

    name: str
    meaning: str
    href: str
    sorted: str | None
    is_number: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure with its interval, or what is said in its place."""

    text: str
    detail: str = ""
    is_missing: bool = False
    is_number: bool = True
    href: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One SAE."""

    slug: str
    frontier: str
    """'frontier', or by which measure it is on one alone; empty where it is on none."""
    cells: Sequence[Cell]
    command: str
    """The command that measures it, for one that nobody has measured."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What some SAEs of a table lack, and the command that measures it for the first of them."""

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class GroupView:
    """SAEs that compare, in a table and on charts."""

    title: str
    about: str
    is_measured: bool
    columns: Sequence[Column]
    rows: Sequence[Row]
    charts: Sequence[Chart]
    missing: Sequence[Missing]


@dataclass(frozen=True, slots=True)
class LeaderboardView:
    """All SAEs of one model. `places` are its hook points, with their groups."""

    model: str
    models: Mapping[str, int]
    sort: Sort
    order: Order
    places: Mapping[str, Sequence[GroupView]]
    api: str


def leaderboard_view(board: Leaderboard) -> LeaderboardView:
    """Return what the page shows of a leaderboard."""
    places: dict[str, list[GroupView]] = {}
    for group in board.groups:
        place = glossary.place(group.entries[0].sae)
        places.setdefault(place, []).append(_group(board, group))
    query = urlencode({"model": board.model, "sort": board.sort, "order": board.order})
    return LeaderboardView(board.model, board.models, board.sort, board.order, places, f"/api/v1/leaderboard?{query}")


def _group(board: Leaderboard, group: Group) -> GroupView:
    shown: Sequence[Sort] = tuple(_COLUMNS)
    if not group.is_measured:
        shown = ("name", "d_sae", "samples", "architecture")
    return GroupView(
        title=_title(group),
        about=_about(group),
        is_measured=group.is_measured,
        columns=[_column(board, name) for name in shown],
        rows=[_row(entry, shown) for entry in group.entries],
        charts=_charts(group),
        missing=_missing(group) if group.is_measured else (),
    )


def _title(group: Group) -> str:
    if not group.is_measured:
        return "Not evaluated"
    return group.text.corpus if group.text else "Text that was not recorded"


def _about(group: Group) -> str:
    saes = plural(len(group.entries), "SAE")
    if not group.is_measured:
        return f"{saes} that nobody has measured"
    if group.text is None:
        return f"{saes} measured before the text was recorded; evaluated again, they compare with others"
    return f"{saes} measured on {_words(group.text)}"


def _words(text: HeldOutText) -> str:
    return (
        f"the same {plural(text.tokens, 'held-out token')}, and for the loss on "
        f"{plural(text.predictions, 'prediction')}; intervals are 95 %"
    )


def _column(board: Leaderboard, name: Sort) -> Column:
    title, meaning = _COLUMNS[name]
    here = board.sort == name
    order = ("desc" if board.order == "asc" else "asc") if here else default_order(name)
    return Column(
        title,
        meaning,
        f"/compare?{urlencode({'model': board.model, 'sort': name, 'order': order})}",
        ("ascending" if board.order == "asc" else "descending") if here else None,
        is_number=name not in ("name", "architecture", "probing"),
    )


def _row(entry: Entry, columns: Sequence[Sort]) -> Row:
    on = [name for measure, name in _FIDELITY.items() if measure in entry.frontier]
    command = "" if entry.is_measured or not entry.sae.has_weights else evaluate_command(entry.sae)
    frontier = "frontier" if len(on) == len(_FIDELITY) else "".join(f"frontier: {name}" for name in on)
    return Row(entry.sae.slug, frontier, [_cell(entry, name) for name in columns if name != "name"], command)


def _cell(entry: Entry, column: Sort) -> Cell:
    if column == "d_sae":
        return Cell(count(entry.sae.d_sae))
    if column == "samples":
        return Cell("elsewhere", is_missing=True) if entry.samples is None else Cell(count(entry.samples))
    if column == "architecture":
        return Cell(glossary.architecture(entry.sae), is_number=False)
    if column == "probing":
        return _probing(entry)
    if column == "stability":
        return _stability(entry)
    measured = entry.figures.get(column)
    if measured is None:
        return Cell("not evaluated", is_missing=True)
    form = percent if column in ("dead", "ce_recovered") else significant
    ends = "" if measured.low is None or measured.high is None else f"{form(measured.low)} – {form(measured.high)}"
    return Cell(form(measured.value), ends)


def _probing(entry: Entry) -> Cell:
    against = entry.against_random
    if against is None:
        return Cell("not evaluated", is_missing=True, is_number=False)
    said = [
        f"{words} {', '.join(one.subject for one in sets)}"
        for words, sets in (("better at", against.better), ("worse at", against.worse))
        if sets
    ]
    unshown = f"not shown at {', '.join(one.subject for one in against.open)}" if against.open else ""
    return Cell("; ".join(said) or "no difference shown", unshown, is_number=False)


def _stability(entry: Entry) -> Cell:
    found = entry.stability
    if found is None:
        return Cell("not compared", is_missing=True)
    address = f"/compare?{urlencode({'a': entry.sae.slug, 'b': found.other})}"
    return Cell(percent(found.share), f"of {count(found.features)}", href=address)


def _missing(group: Group) -> list[Missing]:
    able = [entry for entry in group.entries if entry.sae.has_weights]
    found = []
    if group.text is None and able:
        found.append(
            Missing("To measure them on a text that is recorded, the first of them:", evaluate_command(able[0].sae))
        )
    unprobed = [entry for entry in able if entry.probing is None]
    if unprobed:
        found.append(
            Missing(
                f"{plural(len(unprobed), 'SAE')} not compared with random dictionaries. To do it for the first:",
                evaluate_command(unprobed[0].sae, "--probing", "builtin"),
            )
        )
    return found


# --- charts


def _charts(group: Group) -> list[Chart]:
    """Return one chart per measure that two SAEs or more have; none where it is not known that they compare."""
    if group.text is None:
        return []
    charts = []
    for measure in _FIDELITY:
        entries = [entry for entry in group.entries if {"l0", measure} <= set(entry.figures)]
        if len(entries) > 1:
            charts.append(_chart(measure, sorted(entries, key=lambda entry: entry.figures["l0"].value)))
    return charts


def _chart(measure: Fidelity, entries: Sequence[Entry]) -> Chart:
    frontier = [entry for entry in entries if measure in entry.frontier]
    others = [entry for entry in entries if measure not in entry.frontier]
    sizes = [entry.figures["l0"].value for entry in entries]
    is_log = min(sizes) > 0 and max(sizes) >= _LOG_FROM * min(sizes)
    name = _FIDELITY[measure]
    form = percent if measure == "ce_recovered" else significant
    x: dict[str, Any] = {"title": f"L0: active features per token{' (log)' if is_log else ''}", "tickformat": "~r"}
    if is_log:
        x |= {"type": "log", "dtick": "D2", "range": [math.log10(min(sizes)) - 0.06, math.log10(max(sizes)) + 0.06]}
    traces = [_points(measure, frontier, "lines+markers", "var(--accent)")]
    if others:
        traces.insert(0, _points(measure, others, "markers", "var(--ink-faint)"))
    y = {"title": name, "nticks": 5, "tickformat": ".0%" if measure == "ce_recovered" else "~r"}
    return Chart(
        title=f"Sparsity and {name}",
        note="on the line: no SAE is as good at as low an L0; bars are 95 % intervals",
        figure=figure(traces, x, y, hovermode="closest"),
        columns=("SAE", "L0", name, "on the frontier"),
        rows=tuple(
            (
                entry.sae.slug,
                significant(entry.figures["l0"].value),
                form(entry.figures[measure].value),
                "yes" if measure in entry.frontier else "no",
            )
            for entry in entries
        ),
    )


def _points(measure: Fidelity, entries: Sequence[Entry], mode: str, colour: str) -> dict[str, Any]:
    values = [entry.figures[measure] for entry in entries]
    return {
        "type": "scatter",
        "mode": mode,
        "x": [entry.figures["l0"].value for entry in entries],
        "y": [measured.value for measured in values],
        "text": [entry.sae.slug for entry in entries],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [_beyond(measured, measured.high) for measured in values],
            "arrayminus": [_beyond(measured, measured.low) for measured in values],
            "color": colour,
            "thickness": 1,
            "width": 0,
        },
        "marker": {"color": colour, "size": 8},
        "line": {"color": colour, "width": 1.5},
        "hovertemplate": "%{text}<br>%{y:.4~r} at L0 %{x:.3~r}<extra></extra>",
    }


def _beyond(measured: Measured, end: float | None) -> float:
    return 0.0 if end is None else abs(end - measured.value)
