"""All SAEs of a model in one table, two SAEs side by side, and one feature beside its counterpart and its parts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable, UserError
from app.queries.comparisons import (
    ComparisonView,
    Counterpart,
    CounterpartPage,
    Listing,
    Partner,
    get_comparison,
    get_counterparts,
    get_parts,
    list_compared,
    list_comparisons,
    list_counterparts,
)
from app.queries.examples import ExampleView, best_examples, get_examples
from app.queries.feature_list import FeatureRow, feature_rows
from app.queries.saes import SaeDetail, list_saes
from app.services.comparisons import comparing_runs
from app.services.leaderboard import get_leaderboard
from app.services.saes import check_comparable, pick_sae
from app.web.components import comparison_text, example_lines, figures, glossary
from app.web.components.counterparts import address
from app.web.components.example_lines import Example
from app.web.components.formatting import count, percent
from app.web.components.leaderboard_view import LeaderboardView, leaderboard_view
from app.web.components.run_card import MOST_LIVE, RunCard, card
from app.web.dependencies import Session, check_feature
from app.web.rendering import render, wants_fragment

router = APIRouter()

_ON_OVERVIEW = 8
"""Features of each list on the overview; a list's own page shows all."""
_PAGE = 50
_EXAMPLES = 10
_KNOWN = 20
"""Comparisons to choose from where no SAE is chosen."""


@dataclass(frozen=True, slots=True)
class _ListKind:
    """A kind of list in a comparison: whose features it has, with its title and its meaning."""

    listing: Listing
    of_other: bool
    title: str
    """{a} and {b} are the two SAEs."""
    meaning: str


LISTS = {
    "split-a": _ListKind("split", False, "Split by {b}", "features of {a} that have two parts or more in {b}"),
    "split-b": _ListKind("split", True, "Split by {a}", "features of {b} that have two parts or more in {a}"),
    "matched": _ListKind("matched", False, "In both", "features that match one to one, the best first"),
    "only-a": _ListKind("unmatched", False, "Only in {a}", "no feature of {b} matches; the most frequent first"),
    "only-b": _ListKind("unmatched", True, "Only in {b}", "no feature of {a} matches; the most frequent first"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A feature in a list, beside its best match in the other SAE."""

    counterpart: Counterpart
    own: FeatureRow | None
    others: FeatureRow | None
    line: example_lines.Line | None
    """The strongest example of a feature that is split."""
    address: str


@dataclass(frozen=True, slots=True)
class ListPage:
    """A list of a comparison, or its beginning; `more` is the address of the next page, `all` of the list."""

    name: str
    title: str
    meaning: str
    is_split: bool
    names: tuple[str, str]
    """Names of the SAE whose features are listed, and of the other."""
    rows: list[Row]
    total: int
    more: str | None
    all: str


@dataclass(frozen=True, slots=True)
class CompareQuery:
    """Parameters of the address; empty if absent."""

    a: str = ""
    b: str = ""
    feature: str = ""
    show: str = ""
    cursor: str | None = None
    model: str = ""
    sort: str = ""
    order: str = ""


@dataclass(frozen=True, slots=True)
class _Choice:
    """The SAEs to choose from, and those that the address names."""

    saes: list[SaeDetail]
    a: SaeDetail | None = None
    b: SaeDetail | None = None

    @property
    def context(self) -> dict[str, Any]:
        """Return the context of the form that chooses two SAEs."""
        chosen = {"saes": self.saes, "a": self.a, "b": self.b, "sae": self.a}
        return {**chosen, "known": [], "comparison": None, "error": None, "missing": False, "active": [], "board": None}


@dataclass(frozen=True, slots=True)
class _Answer:
    """A template with its context, without the choice."""

    template: str
    context: dict[str, Any]


@router.get("/compare")
async def compare(request: Request, session: Session, query: Annotated[CompareQuery, Depends()]) -> HTMLResponse:
    """Show all SAEs of a model and the choice of two, their comparison, one of its lists, or a feature of `a`."""
    choice, status = _Choice(await list_saes(session)), 200
    try:
        choice = replace(choice, a=_chosen(choice.saes, query.a))
        choice = replace(choice, b=_chosen(choice.saes, query.b))
        answer = await _answer(session, query, choice)
    except UserError as error:
        if wants_fragment(request):
            raise
        answer, status = _refused(query, choice, error), error.status
    template = answer.template
    if template == "compare/list.html" and wants_fragment(request):
        template = "compare/_rows.html"
    return render(request, template, choice.context | answer.context, status=status)


def _chosen(saes: Sequence[SaeDetail], slug: str) -> SaeDetail | None:
    return pick_sae(saes, slug) if slug else None


async def _answer(session: AsyncSession, query: CompareQuery, choice: _Choice) -> _Answer:
    a, b = choice.a, choice.b
    if a is None or b is None:
        active = await _under_way(session, a or b)
        board = await _leaderboard(session, query, choice)
        known = await _known(session, choice.saes, a)
        return _Answer("compare/choose.html", {"known": known, "active": active, "board": board})
    check_comparable(a, b)
    comparison = await get_comparison(session, a, b)
    stale = comparison is not None and _is_stale(comparison, a, b)
    active = await _under_way(session, a, b) if comparison is None or stale else []
    if comparison is None and active and not (query.feature or query.show):
        return _Answer("compare/page.html", {"active": active, **_measures(a, b)})
    if comparison is None:
        raise _not_compared(a, b)
    pair = _Pair(session, a, b, comparison)
    shared = {"comparison": comparison, "stale": stale, "active": active}
    if query.feature:
        return _Answer("compare/feature.html", shared | await _feature(pair, check_feature(a, query.feature)))
    if query.show:
        page = await _list(pair, query.show, cursor=query.cursor, limit=_PAGE)
        return _Answer("compare/list.html", {**shared, "list": page})
    return _Answer("compare/page.html", {**shared, **_measures(a, b), **await _overview(pair)})


async def _leaderboard(session: AsyncSession, query: CompareQuery, choice: _Choice) -> LeaderboardView | None:
    """Return all SAEs of the model that the address names, or that the chosen SAE is of."""
    chosen = choice.a or choice.b
    model = query.model or (chosen.model.name if chosen else "")
    board = await get_leaderboard(session, model=model, sort=query.sort, order=query.order, saes=choice.saes)
    return leaderboard_view(board) if board else None


def _refused(query: CompareQuery, choice: _Choice, error: UserError) -> _Answer:
    """Return the choice with the error below it, or two SAEs side by side that are not yet compared."""
    a, b = choice.a, choice.b
    found = {"error": error, "missing": isinstance(error, _NotCompared)}
    if a and b and found["missing"] and not (query.feature or query.show):
        return _Answer("compare/page.html", {**found, **_measures(a, b)})
    return _Answer("compare/choose.html", found)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two SAEs, and their comparison seen from `a`."""

    session: AsyncSession
    a: SaeDetail
    b: SaeDetail
    comparison: ComparisonView

    async def summaries(self, *counterparts: Counterpart, of_other: bool = False) -> "_Summaries":
        """Return the rows of these features and of their best partners in the other SAE."""
        own, others = (self.b, self.a) if of_other else (self.a, self.b)
        best = {counterpart.best.index for counterpart in counterparts if counterpart.best}
        return _Summaries(
            await feature_rows(
                self.session, own, {counterpart.feature for counterpart in counterparts}, with_examples=False
            ),
            await feature_rows(self.session, others, best, with_examples=False),
        )


@dataclass(frozen=True, slots=True)
class _Summaries:
    own: Mapping[int, FeatureRow]
    others: Mapping[int, FeatureRow]


class _NotCompared(NotFound):
    """Two SAEs that can be compared, and have not been."""

    title = "Not compared yet"


def _not_compared(a: SaeDetail, b: SaeDetail) -> _NotCompared:
    for sae in (a, b):
        if sae.index is None:
            return _NotCompared(
                f"{sae.slug} has no index yet, so there is no activity to compare. Runs shows if one is being made. "
                "If not, index it on the text of the other; the two are then compared automatically."
            )
    return _NotCompared("These two have not been compared yet.")


async def _under_way(session: AsyncSession, *saes: SaeDetail | None) -> list[RunCard]:
    """Return the runs under way that will compare these SAEs; None stands for any."""
    return [card(run) for run in await comparing_runs(session, *(sae for sae in saes if sae))][:MOST_LIVE]


def _is_stale(comparison: ComparisonView, a: SaeDetail, b: SaeDetail) -> bool:
    """True if a new comparison would cover activity, or the text that both SAEs are indexed on."""
    if comparison.tokens:
        return not comparison.is_of(a, b)
    return bool(a.index and b.index and a.index.sequence_set.id == b.index.sequence_set.id)


async def _known(
    session: AsyncSession, saes: Iterable[SaeDetail], chosen: SaeDetail | None
) -> list[tuple[SaeDetail, SaeDetail]]:
    """Return pairs that have been compared: those of the chosen SAE, or any, with the narrower SAE first."""
    by_id = {sae.id: sae for sae in saes}
    if chosen is not None:
        return [(chosen, by_id[comparison.other_id]) for comparison in await list_comparisons(session, chosen)]
    pairs = [(by_id[a], by_id[b]) for a, b in await list_compared(session, limit=_KNOWN)]
    return [(a, b) if a.d_sae <= b.d_sae else (b, a) for a, b in pairs]


# --- two SAEs


@dataclass(frozen=True, slots=True)
class _SideBySide:
    """One measure of two SAEs; None where it was not measured."""

    name: str
    meaning: str
    values: tuple[glossary.Measure | None, glossary.Measure | None]


def _measures(a: SaeDetail, b: SaeDetail) -> dict[str, list[_SideBySide]]:
    """Return facts and metrics of both SAEs: the main measures, and the others."""
    sides = [glossary.measures(sae.metrics) for sae in (a, b)]
    main = _pair_measures(*([*_facts(sae), *measured[0]] for sae, measured in zip((a, b), sides, strict=True)))
    return {"measures": main, "more_measures": _pair_measures(*(measured[1] for measured in sides))}


def _pair_measures(ours: list[glossary.Measure], theirs: list[glossary.Measure]) -> list[_SideBySide]:
    """Return pairs of measures of the same name, in the order of the lists."""
    left, right = ({measure.name: measure for measure in side} for side in (ours, theirs))
    return [
        _SideBySide(measure.name, measure.meaning, (left.get(measure.name), right.get(measure.name)))
        for measure in (left | right).values()
    ]


def _facts(sae: SaeDetail) -> list[glossary.Measure]:
    """Return facts of an SAE as measures."""
    facts = [
        glossary.Measure("Features", count(sae.d_sae), "width of the dictionary"),
        glossary.Measure("Hook point", glossary.place(sae), "where it reads the model"),
        glossary.Measure("Architecture", glossary.architecture(sae), "how it is trained, and how it is saved"),
    ]
    if sae.index is None:
        return facts
    dense, dead = sae.index.health.get("dense", 0), sae.index.health.get("dead", 0)
    return [
        *facts,
        glossary.Measure("Dead in the index", percent(dead / sae.d_sae), "features never active on the indexed text"),
        glossary.Measure("Dense in the index", percent(dense / sae.d_sae), "features active on too many of its tokens"),
    ]


async def _overview(pair: _Pair) -> dict[str, Any]:
    thresholds = pair.comparison.provenance.get("thresholds", {})
    charts = [
        figures.match_quality(
            "cosine", "decoder directions", pair.comparison.this["cosine"], thresholds.get("match_cosine")
        )
    ]
    if pair.comparison.tokens:
        counts, floor = pair.comparison.this["correlation"], thresholds.get("match_correlation")
        charts.append(figures.match_quality("correlation", "activations", counts, floor))
    lists = [await _list(pair, name, limit=_ON_OVERVIEW) for name in LISTS]
    # The direction with more splitting comes first: from the narrower to the wider SAE.
    lists[:2] = sorted(lists[:2], key=lambda page: -page.total)
    lead = comparison_text.overview(pair.a, pair.b, pair.comparison)
    partners = comparison_text.partners(pair.comparison)
    return {
        "lead": lead,
        "partners": partners,
        "charts": charts,
        "lists": [page for page in lists if page.rows],
        "thresholds": thresholds,
    }


async def _list(pair: _Pair, name: str, *, limit: int, cursor: str | None = None) -> ListPage:
    if name not in LISTS:
        raise Unprocessable(f"A comparison has no list “{name[:40]}”: use one of {', '.join(LISTS)}.")
    kind = LISTS[name]
    page: CounterpartPage = await list_counterparts(
        pair.session, pair.comparison, kind.listing, of_other=kind.of_other, limit=limit, cursor=cursor
    )
    own, others = (pair.b, pair.a) if kind.of_other else (pair.a, pair.b)
    summaries = await pair.summaries(*page.rows, of_other=kind.of_other)
    is_split = kind.listing == "split"
    views = await best_examples(pair.session, own, list(summaries.own)) if is_split else {}
    rows = [
        Row(
            counterpart,
            summaries.own.get(counterpart.feature),
            summaries.others.get(counterpart.best.index) if counterpart.best else None,
            _strongest_line(views.get(counterpart.feature)),
            address(own, others, feature=counterpart.feature),
        )
        for counterpart in page.rows
    ]
    names = dict(zip("ab", glossary.differing_parts(pair.a, pair.b), strict=True))
    return ListPage(
        name=name,
        title=kind.title.format(**names),
        meaning=kind.meaning.format(**names),
        is_split=is_split,
        names=glossary.differing_parts(own, others),
        rows=rows,
        total=page.total,
        more=address(pair.a, pair.b, show=name, cursor=page.next_cursor) if page.next_cursor else None,
        all=address(pair.a, pair.b, show=name),
    )


def _strongest_line(view: ExampleView | None) -> example_lines.Line | None:
    return example_lines.cut(view, view.activation) if view else None


# --- one feature


@dataclass(frozen=True, slots=True)
class Column:
    """One of two features beside each other."""

    sae: SaeDetail
    brief: FeatureRow
    examples: list[Example]
    here: str


@dataclass(frozen=True, slots=True)
class RelatedFeature:
    """A feature of the other SAE, with its relation to the feature of the page."""

    brief: FeatureRow
    partner: Partner
    """Seen from the feature that is a part."""
    line: example_lines.Line | None
    address: str


async def _feature(pair: _Pair, index: int) -> dict[str, Any]:
    found = (await get_counterparts(pair.session, pair.comparison, [index])).get(index)
    if found is None or pair.a.index is None:
        raise NotFound(f"{pair.a.slug} has no index yet, so feature {index} cannot be shown.")
    best, names = found.best, glossary.differing_parts(pair.a, pair.b)
    other = await _column(pair.session, pair.b, best.index) if best else None
    parts = await get_parts(pair.session, pair.comparison, index)
    return {
        "index": index,
        "counterpart": found,
        "verdict": comparison_text.verdict(found, names[1], by_activity=pair.comparison.tokens > 0),
        "comes_back": comparison_text.comes_back(found, names[1]),
        "this": await _column(pair.session, pair.a, index),
        "other": other,
        "nearer": await _nearer(pair, found),
        "parts": await _related(pair, [(part.feature, part.parent) for part in parts]),
        "names": names,
        "parents": await _related(pair, [(found.parent.index, found.parent)] if found.parent else []),
        "swapped_url": address(pair.b, pair.a, feature=best.index) if best else None,
        "previous": address(pair.a, pair.b, feature=index - 1) if index else None,
        "next": address(pair.a, pair.b, feature=index + 1) if index + 1 < pair.a.d_sae else None,
        "thresholds": pair.comparison.provenance.get("thresholds", {}),
    }


async def _column(session: AsyncSession, sae: SaeDetail, index: int) -> Column | None:
    """Return a feature with its top examples; None where the SAE has no index to take them from."""
    brief = (await feature_rows(session, sae, [index], with_examples=False)).get(index)
    if brief is None:
        return None
    views = await get_examples(session, sae, index, band=0, limit=_EXAMPLES, with_documents=False)
    examples = [Example.of(view, brief.max) for view in views]
    return Column(sae, brief, examples, f"/saes/{sae.slug}/features/{index}")


async def _nearer(pair: _Pair, counterpart: Counterpart) -> RelatedFeature | None:
    """Return the nearest feature in direction, if another one is nearest in activity."""
    near, best = counterpart.near, counterpart.best
    if near is None or best is None or near.index == best.index:
        return None
    return next(iter(await _related(pair, [(near.index, near)])), None)


async def _related(pair: _Pair, pairs: list[tuple[int, Partner | None]]) -> list[RelatedFeature]:
    numbers = [number for number, _ in pairs]
    summaries = await feature_rows(pair.session, pair.b, numbers, with_examples=False)
    views = await best_examples(pair.session, pair.b, numbers)
    return [
        RelatedFeature(
            brief=summaries[number],
            partner=partner,
            line=example_lines.cut(views[number], summaries[number].max) if number in views else None,
            address=address(pair.b, pair.a, feature=number),
        )
        for number, partner in pairs
        if partner is not None and number in summaries
    ]
