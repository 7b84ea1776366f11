"""Comparisons of SAEs: the counterparts of one SAE's features in another."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import (
    Row,
    Select,
    and_,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.errors import NotFound, Unprocessable
from app.queries.saes import SaeDetail, get_saes
from app.queries.sql.copy import copy_rows
from app.queries.sql.cursors import Cursor
from app.queries.sql.expressions import in_array
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import clean_json
from app.tables import Comparison, FeatureMatch, Sae
from sae_core.statistics.spec import PARTNER

Listing = Literal["matched", "unmatched", "split"]
"""Lists of features: with a partner, without one, with two or more parts in the other SAE."""

MAX_LIMIT = 200


class FeatureMatchRow(NamedTuple):
    """Counterparts of one feature in the other SAE, as `sae_core.matching.match` computes it; None for no partner."""

    feature: int
    count: int  # type: ignore[assignment]  # it shadows tuple.count, which no row needs
    near: int | None
    near_cosine: float
    near_correlation: float
    near_joint: int
    near_matched: bool
    coactive: int | None
    coactive_cosine: float
    coactive_correlation: float
    coactive_joint: int
    coactive_matched: bool
    parent: int | None
    parent_cosine: float
    parent_correlation: float
    parent_joint: int
    parts: int
    covered: int


@dataclass(frozen=True, slots=True)
class Partner:
    """A feature of the other SAE. Fields about activity are None if only directions were compared.

    `joint` are the tokens on which both are active, `given_this` is P(other active | this active).
    """

    index: int
    cosine: float
    correlation: float | None
    joint: int | None
    given_this: float | None
    given_other: float | None


@dataclass(frozen=True, slots=True)
class Counterpart:
    """Counterparts of one feature in another SAE."""

    feature: int
    near: Partner | None
    """The nearest in direction."""
    near_matched: bool
    """True if that is mutual and above the floor."""
    coactive: Partner | None
    """The most correlated; None if none correlates, or only directions were compared."""
    coactive_matched: bool
    parent: Partner | None
    """The feature that this one is a part of."""
    parts: int
    """Features of the other SAE that are parts of this one."""
    covered: float | None
    """Share of this feature's tokens on which a part is active."""

    @property
    def best(self) -> Partner | None:
        """Return the counterpart to show: by activity if that is known, else by direction."""
        return self.coactive or self.near

    @property
    def matched(self) -> bool:
        """True if `best` is a one-to-one match."""
        return self.coactive_matched if self.coactive else self.near_matched

    @property
    def comes_back(self) -> bool:
        """True if the nearest in direction is near enough to be a partner."""
        return self.near is not None and self.near.cosine >= PARTNER

    @property
    def fires_again(self) -> bool:
        """True if the activations of the most correlated one are alike enough to be a partner's."""
        return self.coactive is not None and (self.coactive.correlation or 0) >= PARTNER


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """A comparison from the view of one of its two SAEs, `this`."""

    id: int
    side: int
    """Side of `this` in the table."""
    other_id: int
    sequence_set_id: int | None
    tokens: int
    """Counted tokens on which activity was compared; 0 if only directions were."""
    this: Mapping[str, Any]
    """Counts and histograms of the features of `this`, as `app.pipeline.comparison` counts them."""
    other: Mapping[str, Any]
    provenance: Mapping[str, Any]
    created_at: datetime

    def is_of(self, *saes: SaeDetail) -> bool:
        """True if activity was compared on the text on which these SAEs are indexed now."""
        return all(sae.index is not None and sae.index.sequence_set.id == self.sequence_set_id for sae in saes)


@dataclass(frozen=True, slots=True)
class CounterpartPage:
    """One page of a list; `total` counts the features of all pages."""

    rows: tuple[Counterpart, ...]
    next_cursor: str | None
    total: int


async def publish_comparison(
    session: AsyncSession,
    *,
    a: SaeDetail,
    b: SaeDetail,
    sequence_set_id: int | None,
    tokens: int,
    provenance: Mapping[str, Any],
    summary: Mapping[str, Any],
    rows: Sequence[Iterable[FeatureMatchRow]],
) -> int:
    """Write a comparison, of `a` with the lower id, replacing an earlier one, and return its id.

    Readers see the old one or the new one, whole, once the session commits.

    Raises:
        NotFound: one of the SAEs was deleted since it was read.

    Args:
        rows: those of `a`'s features, and those of `b`'s.
    """
    key = f"seesae comparison {a.id} {b.id}"
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})
    kept = await get_saes(session, (a.id, b.id))
    for sae in (a, b):
        if sae.id not in kept:
            raise NotFound(f"{sae.slug} was deleted before the comparison was done.")
    await session.execute(delete(Comparison).where(Comparison.a_id == a.id, Comparison.b_id == b.id))
    new = insert(Comparison).values(
        a_id=a.id,
        b_id=b.id,
        sequence_set_id=sequence_set_id,
        tokens=tokens,
        provenance=clean_json(provenance),
        summary=clean_json(summary),
    )
    comparison_id = await session.scalar(new.returning(Comparison.id))
    assert isinstance(comparison_id, int)
    of_both = ((comparison_id, side, *row) for side, own in enumerate(rows) for row in own)
    await copy_rows(session, FeatureMatch, ("comparison_id", "side", *FeatureMatchRow._fields), of_both)
    return comparison_id


async def get_comparison(session: AsyncSession, this: SaeDetail, other: SaeDetail) -> ComparisonView | None:
    """Return the comparison of two SAEs from the view of the first."""
    a, b = sorted((this.id, other.id))
    row = await session.scalar(
        select(Comparison).where(Comparison.a_id == a, Comparison.b_id == b).execution_options(populate_existing=True)
    )
    return None if row is None else _view(row, this.id)


async def list_comparisons(session: AsyncSession, sae: SaeDetail) -> list[ComparisonView]:
    """Return all comparisons of an SAE from its view, newest SAE first."""
    rows = await session.scalars(
        select(Comparison)
        .where(or_(Comparison.a_id == sae.id, Comparison.b_id == sae.id))
        .execution_options(populate_existing=True)
    )
    return sorted((_view(row, sae.id) for row in rows), key=lambda view: -view.other_id)


async def list_compared(session: AsyncSession, *, limit: int) -> list[tuple[int, int]]:
    """Return the SAEs' ids of each comparison, newest first."""
    rows = await session.execute(select(Comparison.a_id, Comparison.b_id).order_by(Comparison.id.desc()).limit(limit))
    return [(a, b) for a, b in rows]


async def best_cosines(session: AsyncSession, ids: Collection[int]) -> list[tuple[int, int, list[int]]]:
    """Return one entry per SAE and SAE it was compared with, both of `ids`, newest comparison first.

    Each is the id of the one, that of the other, and the one's features by the cosine of their best partner in the
    other, in equal bins from 0 to 1.
    """
    query = select(Comparison).where(in_array(Comparison.a_id, ids), in_array(Comparison.b_id, ids))
    found = []
    for row in await session.scalars(query.order_by(Comparison.id.desc())):
        for this, other, side in ((row.a_id, row.b_id, "a"), (row.b_id, row.a_id, "b")):
            cosine = row.summary[side]["cosine"]
            counts = [sum(both) for both in zip(cosine["matched"], cosine["others"], strict=True)]
            found.append((this, other, counts))
    return found


async def comparisons_tag(session: AsyncSession, sae_id: int) -> tuple[tuple[Any, ...], ...]:
    """Return a version tag of an SAE's comparisons, which changes with them and with the other SAEs' labels."""
    rows = await session.execute(_TAG, {"sae": sae_id})
    return tuple(tuple(row) for row in rows)


_TAG = (
    select(Comparison.id, Sae.id, Sae.label_changes, Sae.current_index_id)
    .join(Sae, or_(Sae.id == Comparison.a_id, Sae.id == Comparison.b_id))
    .where(or_(Comparison.a_id == bindparam("sae"), Comparison.b_id == bindparam("sae")))
    .order_by(Comparison.id, Sae.id)
)


async def get_counterparts(
    session: AsyncSession, comparison: ComparisonView, features: Iterable[int], *, of_other: bool = False
) -> dict[int, Counterpart]:
    """Return the counterparts of these features of `this` (or of the other SAE), by feature."""
    side = _side(comparison, of_other)
    rows = await session.execute(
        _rows().where(
            FeatureMatch.comparison_id == comparison.id,
            FeatureMatch.side == side,
            in_array(FeatureMatch.feature, features),
        )
    )
    return {row.feature: _counterpart(row, comparison) for row in rows}


async def counterparts_everywhere(
    session: AsyncSession, comparisons: Sequence[ComparisonView], feature: int
) -> dict[int, Counterpart]:
    """Return the counterparts of one feature in each compared SAE, by the comparison's id."""
    if not comparisons:
        return {}
    own = [
        and_(FeatureMatch.comparison_id == comparison.id, FeatureMatch.side == comparison.side)
        for comparison in comparisons
    ]
    rows = await session.execute(_rows().where(FeatureMatch.feature == feature, or_(*own)))
    known = {comparison.id: comparison for comparison in comparisons}
    return {row.comparison_id: _counterpart(row, known[row.comparison_id]) for row in rows}


async def get_parts(
    session: AsyncSession, comparison: ComparisonView, feature: int, *, limit: int = MAX_LIMIT
) -> list[Counterpart]:
    """Return the features of the other SAE that are parts of `feature`, by share of its tokens, largest first.

    Each is seen from its own SAE: its `parent` is `feature`.
    """
    rows = await session.execute(
        _rows()
        .where(
            FeatureMatch.comparison_id == comparison.id,
            FeatureMatch.side == _side(comparison, True),
            FeatureMatch.parent == feature,
        )
        .order_by(FeatureMatch.parent_joint.desc(), FeatureMatch.feature)
        .limit(limit)
    )
    return [_counterpart(row, comparison) for row in rows]


async def list_counterparts(
    session: AsyncSession,
    comparison: ComparisonView,
    listing: Listing,
    *,
    of_other: bool = False,
    limit: int = 50,
    cursor: str | None = None,
) -> CounterpartPage:
    """Return one page of features of `this` SAE (or of the other).

    The best matches come first, or the densest features without a partner, or those with the most parts.

    Raises:
        Unprocessable: no such list, a limit that is not possible, or a cursor of another list.
    """
    if listing not in get_args(Listing):
        raise Unprocessable(f"There is no list of that name: choose one of {', '.join(get_args(Listing))}.")
    if limit not in range(1, MAX_LIMIT + 1):
        raise Unprocessable(f"A page holds 1 to {MAX_LIMIT} features.")
    sort = f"{listing} {'other' if of_other else 'this'} {comparison.id}"
    last = None if cursor is None else Cursor.decode(cursor, sort=sort, descending=True)
    condition, column = _listed(listing, comparison)
    own = and_(FeatureMatch.comparison_id == comparison.id, FeatureMatch.side == _side(comparison, of_other), condition)
    wanted = _rows().where(own).order_by(column.desc(), FeatureMatch.feature.desc()).limit(limit + 1)
    if last is not None:
        here, end = tuple_(column, FeatureMatch.feature), tuple_(cast(last.value, column.type), last.number)
        wanted = wanted.where(here < end)
    found = (await session.execute(wanted)).all()
    total = last.total if last else await session.scalar(select(func.count()).select_from(FeatureMatch).where(own)) or 0
    rows, more = one_page(found, limit)
    next_cursor = None
    if more:
        next_cursor = Cursor(sort, True, float(rows[-1]._mapping[column.key]), rows[-1].feature, total).encode()
    return CounterpartPage(tuple(_counterpart(row, comparison) for row in rows), next_cursor, total)


def _listed(listing: Listing, comparison: ComparisonView) -> tuple[Any, Any]:
    """Return the condition and order of a list. Numbers are literal, so that the planner can use the partial index."""
    if listing == "split":
        return FeatureMatch.parts > literal_column("1"), FeatureMatch.parts
    if listing == "unmatched":
        without = and_(~FeatureMatch.near_matched, ~FeatureMatch.coactive_matched)
        # A dead feature has no partner in activity, because it is never active.
        return (
            and_(without, FeatureMatch.count > literal_column("0")) if comparison.tokens else without,
            FeatureMatch.count,
        )
    if comparison.tokens:
        return FeatureMatch.coactive_matched, FeatureMatch.coactive_correlation
    return FeatureMatch.near_matched, FeatureMatch.near_cosine


def _side(comparison: ComparisonView, of_other: bool) -> int:
    return 1 - comparison.side if of_other else comparison.side


def _rows() -> Select[Any]:
    """Select rows with the densities of their partners."""
    near, coactive, parent = (aliased(FeatureMatch) for _ in range(3))
    query = select(
        FeatureMatch.__table__,
        near.count.label("near_count"),
        coactive.count.label("coactive_count"),
        parent.count.label("parent_count"),
    )
    for partner, number in (
        (near, FeatureMatch.near),
        (coactive, FeatureMatch.coactive),
        (parent, FeatureMatch.parent),
    ):
        query = query.outerjoin(
            partner,
            and_(
                partner.comparison_id == FeatureMatch.comparison_id,
                partner.side == 1 - FeatureMatch.side,
                partner.feature == number,
            ),
        )
    return query


def _view(row: Comparison, this_id: int) -> ComparisonView:
    side = 0 if row.a_id == this_id else 1
    sides = row.summary["a"], row.summary["b"]
    return ComparisonView(
        id=row.id,
        side=side,
        other_id=row.b_id if side == 0 else row.a_id,
        sequence_set_id=row.sequence_set_id,
        tokens=row.tokens,
        this=sides[side],
        other=sides[1 - side],
        provenance=row.provenance,
        created_at=row.created_at,
    )


def _counterpart(row: Row[Any], comparison: ComparisonView) -> Counterpart:
    active = bool(comparison.tokens)
    count = row._mapping["count"]
    return Counterpart(
        feature=row.feature,
        near=_partner(row, "near", active),
        near_matched=row.near_matched,
        coactive=_partner(row, "coactive", active),
        coactive_matched=row.coactive_matched,
        parent=_partner(row, "parent", active),
        parts=row.parts,
        covered=row.covered / count if active and count else None,
    )


def _partner(row: Row[Any], name: str, active: bool) -> Partner | None:
    """Return the partner in the columns that begin with `name`."""
    values = row._mapping
    if values[name] is None:
        return None
    cosine, correlation, joint = (values[f"{name}_{what}"] for what in ("cosine", "correlation", "joint"))
    if not active:
        return Partner(values[name], cosine, None, None, None, None)
    own, others = max(values["count"], 1), max(values[f"{name}_count"], 1)
    return Partner(values[name], cosine, correlation, joint, joint / own, joint / others)
