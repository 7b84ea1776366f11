"""Counterparts of a feature in the other SAEs that its own SAE was compared with."""

from dataclasses import dataclass
from urllib.parse import urlencode

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.comparisons import ComparisonView, Counterpart, counterparts_everywhere, list_comparisons
from app.queries.examples import best_examples
from app.queries.feature_list import FeatureRow, feature_rows
from app.queries.saes import SaeDetail, get_saes
from app.web.components import example_lines
from app.web.components.feature_view import SNIPPET


@dataclass(frozen=True, slots=True)
class CounterpartView:
    """A feature's counterpart in one other SAE; `brief` is None where that SAE has no index to show it from."""

    sae: SaeDetail
    comparison: ComparisonView
    counterpart: Counterpart
    brief: FeatureRow | None
    snippet: example_lines.Line | None
    """Some words around the counterpart's strongest token, if it has no label."""
    address: str
    """Address of the page that shows both."""


def address(this: SaeDetail, other: SaeDetail, **query: object) -> str:
    """Return the address of the comparison of two SAEs; a `feature` belongs to `this`."""
    return "/compare?" + urlencode({"a": this.slug, "b": other.slug, **query})


async def counterparts_of(session: AsyncSession, sae: SaeDetail, feature: int) -> list[CounterpartView]:
    """Return the feature's counterparts, those in the newest SAEs first."""
    comparisons = await list_comparisons(session, sae)
    found = await counterparts_everywhere(session, comparisons, feature)
    others = await get_saes(session, [comparison.other_id for comparison in comparisons]) if found else {}
    views = []
    for comparison in comparisons:
        if comparison.id not in found:
            continue
        counterpart, other = found[comparison.id], others[comparison.other_id]
        number = None if counterpart.best is None else counterpart.best.index
        brief = (
            None if number is None else (await feature_rows(session, other, [number], with_examples=False)).get(number)
        )
        snippet = None
        if brief is not None and brief.label is None:
            view = (await best_examples(session, other, [brief.index], **SNIPPET)).get(brief.index)
            snippet = example_lines.cut(view, view.activation) if view else None
        both = address(sae, other, feature=feature)
        views.append(CounterpartView(other, comparison, counterpart, brief, snippet, both))
    return views
