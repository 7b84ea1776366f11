"""What k-sparse probing found of an SAE, as its page shows it: sentences, a chart and a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.services.probing import Figure, ProbedSet, Probing, compare_with, read_probing, span, verdict
from app.web.components.formatting import count, plain, plural
from app.web.components.interval_chart import IntervalChart, IntervalRow, interval_chart

_BY = {
    "features": "features of this SAE",
    "random": "features of a random dictionary",
    "channels": "channels of the activations",
    "activations": "all of the activations",
}


@dataclass(frozen=True, slots=True)
class TableRow:
    """Figures of one kind of probe: one cell per number of columns, or a single one for all columns."""

    name: str
    cells: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class TablePart:
    """One text set in a table."""

    subject: str
    about: str
    rows: Sequence[TableRow]


@dataclass(frozen=True, slots=True)
class ProbingView:
    """A verdict, the differences to random dictionaries as a chart, and all figures."""

    verdict: Sequence[str]
    chart: IntervalChart
    ks: Sequence[int]
    tables: Mapping[str, Sequence[TablePart]]
    """By measure: accuracy, AUROC."""
    about: str


def probing_view(metrics: Mapping[str, Any]) -> ProbingView | None:
    """Return what the page of an SAE shows of its probing; None if there was none."""
    found = read_probing(metrics)
    if found is None:
        return None
    return ProbingView(
        verdict=verdict(found),
        chart=_chart(found),
        ks=found.ks,
        tables={
            "Accuracy": [_part(one, "accuracy") for one in found.sets],
            "AUROC": [_part(one, "auroc") for one in found.sets],
        },
        about=f"{count(found.draws)} random dictionaries of the same size, with {count(found.active)} active features "
        f"per token; texts up to {plural(found.max_tokens, 'token')}",
    )


def _chart(found: Probing) -> IntervalChart:
    rows, better = [], compare_with(found, "random").better
    for one in found.sets:
        difference = one.difference("random")
        rows.append(
            IntervalRow(
                one.subject,
                difference.value,
                (difference.low, difference.high),
                span(difference),
                plural(one.test, "test text"),
                strong=one in better,
            )
        )
    sizes = ", ".join(map(str, found.ks[:-1])) + f" and {found.ks[-1]}"
    return interval_chart(
        "Accuracy beyond a random dictionary",
        f"share of test texts, mean over probes of {sizes} features; all intervals together hold with 95 %",
        rows,
        reference=0.0,
        form=plain,
    )


def _part(one: ProbedSet, measure: str) -> TablePart:
    rows = [
        TableRow(name, [getattr(probed, measure) for probed in one.probes if probed.by == by])
        for by, name in _BY.items()
    ]
    about = f"{count(len(one.classes))} classes, {count(one.train)} texts to train on and {count(one.test)} to test on"
    if one.resampled < one.test:
        about += f", {count(one.resampled)} kinds of them"
    return TablePart(one.subject, about, rows)
