"""The layered graph of an attribution: positions across, SAEs upwards, one disc per node, one line per edge."""

import math
from collections import defaultdict
from dataclasses import dataclass

from app.services.attribution import AttributionResult, Contribution
from app.services.tokens import plain

_LEFT, _RIGHT, _TOP, _BOTTOM = 132, 16, 4, 76
"""Margins: the hook points of the rows stand in the left one."""
_ROW = 132
_COLUMN, _PER_NODE = 88, 34
_MIN_RADIUS, _MAX_RADIUS = 3.0, 9.0
_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Disc:
    """A node of the graph; its area is the size of its contribution."""

    node: Contribution
    token: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Line:
    """An edge of the graph; `width` and `strength` (0 to 1) grow with its weight."""

    source: Disc
    target: Disc
    weight: float
    width: float
    path: str


@dataclass(frozen=True, slots=True)
class Label:
    """A token below its column, or an SAE's hook point beside its row."""

    text: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Graph:
    """Everything to draw, in the units of its own view box."""

    width: float
    height: float
    discs: tuple[Disc, ...]
    lines: tuple[Line, ...]
    columns: tuple[Label, ...]
    rows: tuple[Label, ...]
    kept: float


def graph(result: AttributionResult) -> Graph | None:
    """Lay out the nodes that have edges; None if there is no edge."""
    if not result.edges:
        return None
    numbers = sorted({end for edge in result.edges for end in (edge.source, edge.target)})
    nodes = {number: result.nodes[number] for number in numbers}
    used = {node.sae for node in nodes.values()}
    levels = [sae.slug for sae in sorted(result.saes, key=lambda sae: _layer(sae.hook)) if sae.slug in used]
    cells: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, node in nodes.items():
        cells[node.position, node.sae].append(number)
    positions = sorted({node.position for node in nodes.values()})
    x, starts, widths = float(_LEFT), {}, {}
    for position in positions:
        most = max(len(cells.get((position, level), ())) for level in levels)
        starts[position], widths[position] = x, max(_COLUMN, most * _PER_NODE)
        x += widths[position]
    height = _TOP + _ROW * (len(levels) - 1) + 40 + _BOTTOM
    largest = max(abs(node.attribution) for node in nodes.values()) or 1.0
    discs = {}
    for (position, level), own in cells.items():
        for place, number in enumerate(own):
            node = nodes[number]
            discs[number] = Disc(
                node=node,
                token=_name(result, position),
                x=round(starts[position] + widths[position] * (place + 0.5) / len(own), 1),
                y=_TOP + 20 + _ROW * (len(levels) - 1 - levels.index(level)),
                radius=round(max(_MIN_RADIUS, _MAX_RADIUS * math.sqrt(abs(node.attribution) / largest)), 1),
            )
    heaviest = max(abs(edge.weight) for edge in result.edges) or 1.0
    lines = []
    for edge in reversed(result.edges):  # the strongest are drawn last, above the others
        source, target = discs[edge.source], discs[edge.target]
        lines.append(
            Line(
                source=source,
                target=target,
                weight=edge.weight,
                width=round(0.5 + 3.5 * abs(edge.weight) / heaviest, 2),
                path=_curve(source, target),
            )
        )
    hooks = {sae.slug: sae.hook for sae in result.saes}
    return Graph(
        width=round(x + _RIGHT, 1),
        height=height,
        discs=tuple(discs[number] for number in numbers),
        lines=tuple(lines),
        columns=tuple(
            Label(_name(result, position), round(starts[position] + widths[position] / 2, 1), height - _BOTTOM + 6)
            for position in positions
        ),
        rows=tuple(
            Label(hooks[level], 0, _TOP + 24 + _ROW * (len(levels) - 1 - levels.index(level))) for level in levels
        ),
        kept=result.edges_kept,
    )


def _layer(hook: str) -> int:
    return int(hook.rpartition(".")[2])


def _name(result: AttributionResult, position: int) -> str:
    text = plain(result.tokens[position].bytes).strip() or "␣"
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"


def _curve(source: Disc, target: Disc) -> str:
    bend = (source.y - target.y) / 2
    return f"M{source.x} {source.y}C{source.x} {source.y - bend} {target.x} {target.y + bend} {target.x} {target.y}"
