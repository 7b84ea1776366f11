"""Entries of an SAE's dictionary: decisions, and labels of one feature in one set that may read alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, cast, exists, func, or_, select
from sqlalchemy.dialects.postgresql import JSONPATH, aggregate_order_by, distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.expressions import newest_decision, submitted
from app.queries.sql.visibility import public_decision
from app.tables import FeatureIndex, Label, LabelDecision, LabelSet


@dataclass(frozen=True, slots=True)
class Agreed:
    """A text for a feature in a set, and the labels that it stands for; `is_decision` if a reviewer decided it."""

    feature: int
    explanation: str
    categories: tuple[str, ...]
    label_set: str
    labels: tuple[int, ...]
    texts: tuple[str, ...]
    is_decision: bool
    at: datetime
    is_disputed: bool = False
    """True if its labels differ in categories or in interpretability, which a reviewer has to decide."""
    is_withdrawn: bool = False
    """True if every label that was decided between was discarded since."""


async def decided(session: AsyncSession, sae_id: int) -> list[Agreed]:
    """Return the newest decision about each feature of an SAE; those of a blind set once it is closed."""
    rows = await session.execute(_DECIDED, {"sae": sae_id})
    return [
        Agreed(
            feature=row.feature,
            explanation=row.explanation,
            categories=tuple(row.categories),
            label_set=name,
            labels=tuple(label for label, _ in row.labels),
            texts=(row.explanation,),
            is_decision=True,
            at=row.decided_at,
            is_withdrawn=bool(row.labels) and not stands,
        )
        for row, name, stands in rows
    ]


_stands = exists().where(
    Label.status == "submitted",
    func.jsonb_path_exists(
        LabelDecision.labels, cast("$[*][0] ? (@ == $id)", JSONPATH), func.jsonb_build_object("id", Label.id)
    ),
    Label.label_set_id == LabelDecision.label_set_id,
    Label.feature == LabelDecision.feature,
)
"""True if a label of those that were decided between is there still."""
_DECIDED = (
    select(LabelDecision, LabelSet.name, _stands)
    .join(LabelSet, LabelSet.id == LabelDecision.label_set_id)
    .where(LabelSet.sae_id == bindparam("sae"), public_decision)
    .ext(distinct_on(LabelDecision.feature))
    .order_by(LabelDecision.feature, *newest_decision)
)


async def labelled_together(session: AsyncSession, sae_id: int) -> list[Agreed]:
    """Return the features of each set that two people or more have labelled, and as many as the set needs.

    In a closed set two are enough. A feature that anybody cannot tell is left out. `texts` are the labels' texts, the
    newest first.
    """
    rows = await session.execute(_TOGETHER, {"sae": sae_id})
    return [
        Agreed(
            feature=row.feature,
            explanation=row.texts[0],
            categories=tuple(name for name in row.categories[0] if all(name in those for those in row.categories)),
            label_set=row.name,
            labels=tuple(row.ids),
            texts=tuple(row.texts),
            is_decision=False,
            at=row.at,
            is_disputed=row.levels > 1 or len({frozenset(chosen) for chosen in row.categories}) > 1,
        )
        for row in rows
    ]


_newest_first = Label.updated_at.desc(), Label.id.desc()
_TOGETHER = (
    select(
        Label.feature,
        LabelSet.name,
        func.array_agg(aggregate_order_by(Label.id, *_newest_first)).label("ids"),
        func.array_agg(aggregate_order_by(Label.explanation, *_newest_first)).label("texts"),
        func.json_agg(aggregate_order_by(Label.categories, *_newest_first)).label("categories"),
        func.count(Label.interpretability.distinct()).label("levels"),
        func.max(Label.updated_at).label("at"),
    )
    .join(LabelSet, LabelSet.id == Label.label_set_id)
    .where(Label.sae_id == bindparam("sae"), submitted)
    .group_by(Label.feature, LabelSet.id)
    .having(
        func.count() >= 2,
        or_(LabelSet.closed_at.is_not(None), func.count() >= LabelSet.needed),
        ~func.bool_or(or_(Label.cant_tell, Label.explanation == "")),
    )
    .order_by(Label.feature, func.max(Label.updated_at).desc())
)


async def all_indexes(session: AsyncSession, sae_id: int) -> Sequence[FeatureIndex]:
    """Return all indexes of an SAE, the newest first."""
    query = select(FeatureIndex).where(FeatureIndex.sae_id == sae_id).order_by(FeatureIndex.id.desc())
    return list(await session.scalars(query))
