"""Comparisons of texts, and the features that distinguish their sides."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.queries.sql.cursors import Cursor
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import clean_json, is_id
from app.tables import Sae, TextComparison, TextSet
from app.tables import TextComparisonFeature as F

SIGNIFICANT = 0.05
"""Features with a smaller q value count as different."""
ONE_TOKEN = 0.9
"""Share of a feature's activation from which it counts as that of one token alone."""
ONE_PLACE = 0.9
"""Share of texts, from which a feature counts as one of the first or of the last token."""
SURVIVES = 0.5
"""Share of a difference that is left among texts of one length, below which it counts as one of length."""
MAX_LIMIT = 200


Direction = Literal["a", "b"]
Order = Literal["strength", "test", "difference", "d", "q", "feature"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, slots=True)
class ComparedFeature:
    """What one feature tells of two sides of texts; `sae_core.contrast` defines the figures."""

    feature: int
    active_a: int
    active_b: int
    auroc: float
    auroc_low: float
    auroc_high: float
    rate_a: float
    rate_b: float
    difference: float
    difference_low: float
    difference_high: float
    lift: float | None
    d: float | None
    p: float
    q: float
    test_auroc: float | None
    test_low: float | None
    test_high: float | None
    matched_auroc: float | None
    token_id: int | None
    token_share: float
    first_share: float
    last_share: float
    examples: Sequence[Mapping[str, Any]] | None

    @property
    def direction(self) -> Direction:
        """Return the side on which it is more active."""
        return "a" if self.auroc >= 0.5 else "b"

    @property
    def differs(self) -> bool:
        """True if the difference is not likely to be chance."""
        return self.q < SIGNIFICANT

    @property
    def is_one_token(self) -> bool:
        """True if it is active on one token alone, or nearly."""
        return self.token_share >= ONE_TOKEN

    @property
    def is_length(self) -> bool:
        """True if most of the difference is gone among texts of about one length."""
        if self.matched_auroc is None:
            return False
        return (self.matched_auroc - 0.5) / (self.auroc - 0.5 or 1.0) < SURVIVES


FIGURES = tuple(name for name in ComparedFeature.__dataclass_fields__ if name != "examples")
"""Names of a feature's figures, in the order of a download's columns."""


@dataclass(frozen=True, slots=True)
class SideView:
    """One side of a comparison."""

    set_name: str
    label: str | None
    offensive: bool

    @property
    def name(self) -> str:
        """Its name, as a parameter has it."""
        return self.set_name if self.label is None else f"{self.set_name}:{self.label}"


@dataclass(frozen=True, slots=True)
class TextComparisonView:
    """A comparison, without its features."""

    id: int
    sae_id: int
    sae: str
    a: SideView
    b: SideView
    detail: Mapping[str, Any]
    run_id: int | None
    created_at: datetime

    @property
    def offensive(self) -> bool:
        """True if a side has texts that stand behind a click."""
        return self.a.offensive or self.b.offensive


@dataclass(frozen=True, slots=True)
class FeatureQuery:
    """Filter and order of a comparison's features."""

    direction: Direction | None = None
    order: Order = "strength"
    differing: bool = False
    """Only those with a small q value."""
    without_tokens: bool = False
    """Leave out those of one token alone."""
    min_rate: float = 0.0
    """Least share of texts of the side on which it is more active."""
    cursor: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """One page of features; `total` counts those of all pages."""

    rows: tuple[ComparedFeature, ...]
    next_cursor: str | None
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTextComparison:
    """A comparison to store."""

    sae_id: int
    a_set_id: int
    a_label: str | None
    b_set_id: int
    b_label: str | None
    detail: Mapping[str, Any]
    run_id: int | None


async def add_text_comparison(
    session: AsyncSession, new: NewTextComparison, features: Iterable[Mapping[str, Any]]
) -> int:
    """Store a comparison with its features, in place of an earlier one of the same sides, and return its id."""
    earlier = select(TextComparison.id).where(
        TextComparison.sae_id == new.sae_id,
        TextComparison.a_set_id == new.a_set_id,
        TextComparison.a_label.is_not_distinct_from(new.a_label),
        TextComparison.b_set_id == new.b_set_id,
        TextComparison.b_label.is_not_distinct_from(new.b_label),
    )
    await session.execute(select(Sae.id).where(Sae.id == new.sae_id).with_for_update())
    known = await session.scalar(earlier.order_by(TextComparison.id).limit(1))
    values = {**asdict(new), "detail": clean_json(new.detail)}
    if known is None:
        number = await session.scalar(insert(TextComparison).values(values).returning(TextComparison.id))
        assert number is not None  # it was inserted
    else:
        number = known
        await session.execute(delete(F).where(F.comparison_id == number))
        await session.execute(
            update(TextComparison).where(TextComparison.id == number).values(**values, created_at=func.now())
        )
    rows = [
        {**clean_json(feature), "comparison_id": number, "strength": abs(feature["auroc"] - 0.5)}
        for feature in features
    ]
    if rows:
        await session.execute(insert(F), rows)
    return number


async def get_text_comparison(session: AsyncSession, comparison_id: int) -> TextComparisonView | None:
    """Return a comparison."""
    if not is_id(comparison_id):
        return None
    return next(iter(await _views(session, _select().where(TextComparison.id == comparison_id))), None)


async def list_text_comparisons(
    session: AsyncSession, *, sae_id: int, limit: int, before: int | None = None
) -> tuple[list[TextComparisonView], int | None]:
    """Return the newest comparisons of an SAE, and where the next page begins."""
    query = _select().where(TextComparison.sae_id == sae_id).order_by(TextComparison.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(TextComparison.id < before)
    found, more = one_page(await _views(session, query), limit)
    return found, found[-1].id if more else None


async def delete_text_comparison(session: AsyncSession, comparison_id: int) -> None:
    """Delete a comparison with its features."""
    row = await session.get(TextComparison, comparison_id)
    if row is not None:
        await session.delete(row)


def _select() -> Select[TextComparison, str, str, bool, str, bool]:
    a, b = aliased(TextSet), aliased(TextSet)
    return (
        select(TextComparison, Sae.slug, a.name, a.offensive, b.name, b.offensive)
        .join(Sae, Sae.id == TextComparison.sae_id)
        .join(a, a.id == TextComparison.a_set_id)
        .join(b, b.id == TextComparison.b_set_id)
    )


async def _views(
    session: AsyncSession, query: Select[TextComparison, str, str, bool, str, bool]
) -> list[TextComparisonView]:
    return [
        TextComparisonView(
            id=row.id,
            sae_id=row.sae_id,
            sae=sae,
            a=SideView(a_name, row.a_label, a_offensive),
            b=SideView(b_name, row.b_label, b_offensive),
            detail=row.detail,
            run_id=row.run_id,
            created_at=row.created_at,
        )
        for row, sae, a_name, a_offensive, b_name, b_offensive in await session.execute(query)
    ]


async def compared_features(session: AsyncSession, comparison_id: int, query: FeatureQuery) -> FeaturePage:
    """Return one page of a comparison's features.

    Raises:
        Unprocessable: the cursor is not one of this list.
    """
    last = None if query.cursor is None else Cursor.decode(query.cursor, sort=query.order, descending=True)
    conditions = [F.comparison_id == comparison_id, *_conditions(query)]
    key = _KEYS[query.order]
    statement = select(F, key.label("key")).where(*conditions).order_by(key.desc(), F.feature)
    if last is None:
        total = await session.scalar(select(func.count()).select_from(F).where(*conditions)) or 0
    else:
        total = last.total
        statement = statement.where(or_(key < last.value, and_(key == last.value, F.feature > last.number)))
    rows, more = one_page((await session.execute(statement.limit(query.limit + 1))).all(), query.limit)
    following = Cursor(query.order, True, float(rows[-1].key), rows[-1][0].feature, total).encode() if more else None
    return FeaturePage(tuple(_feature(row[0]) for row in rows), following, total)


async def one_compared_feature(session: AsyncSession, comparison_id: int, feature: int) -> ComparedFeature | None:
    """Return one feature of a comparison; None if it was not tested."""
    row = await session.get(F, (comparison_id, feature))
    return None if row is None else _feature(row)


async def comparisons_of_feature(
    session: AsyncSession, sae_id: int, feature: int, *, limit: int
) -> list[tuple[TextComparisonView, ComparedFeature]]:
    """Return the newest comparisons in which a feature was tested, with its figures there."""
    query = _select().join(F, F.comparison_id == TextComparison.id).where(TextComparison.sae_id == sae_id)
    views = await _views(session, query.where(F.feature == feature).order_by(TextComparison.id.desc()).limit(limit))
    found = [(view, await one_compared_feature(session, view.id, feature)) for view in views]
    return [(view, figures) for view, figures in found if figures is not None]


_KEYS: dict[Order, ColumnElement[Any]] = {
    "strength": F.strength.expression,
    "test": func.coalesce((F.test_auroc - 0.5) * func.sign(F.auroc - 0.5), -1.0),
    "difference": func.abs(F.difference),
    "d": func.coalesce(func.abs(F.d), -1.0),
    "q": -F.q,
    "feature": -F.feature,
}
"""Columns that order a list, the largest first."""


def _conditions(query: FeatureQuery) -> list[ColumnElement[bool]]:
    conditions = []
    if query.direction is not None:
        conditions.append(F.auroc >= 0.5 if query.direction == "a" else F.auroc < 0.5)
    if query.differing:
        conditions.append(F.q < SIGNIFICANT)
    if query.without_tokens:
        conditions.append(F.token_share < ONE_TOKEN)
    if query.min_rate:
        conditions.append(case((F.auroc >= 0.5, F.rate_a), else_=F.rate_b) >= query.min_rate)
    return conditions


def _feature(row: F) -> ComparedFeature:
    return ComparedFeature(**{name: getattr(row, name) for name in ComparedFeature.__dataclass_fields__})
