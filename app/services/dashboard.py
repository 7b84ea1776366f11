"""What the page of a label set's agreement says: how far people agree, and which features share a label."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries import agreement as queries
from app.queries.label_sets import LabelSetView
from app.services.actors import Actor
from app.services.agreement_report import AgreementReport, Rating
from app.services.collisions import Collisions, find_collisions


@dataclass(frozen=True, slots=True)
class SetAgreement:
    """Agreement in a set, as far as somebody may see it."""

    report: AgreementReport
    names: Mapping[int, str]
    """Of the people in the report, by id."""
    partial: bool
    """True if it is about the features alone that this person has labelled: the set is blind."""
    changed: int | None
    """Labels of a blind set that their authors changed after they could read others'; None where nothing is hidden."""


def sees_part(of: LabelSetView, actor: Actor) -> bool:
    """True if the set hides features from this actor that they have not labelled."""
    return of.withholds and not actor.reader.sees_all


async def set_agreement(session: AsyncSession, of: LabelSetView, actor: Actor) -> SetAgreement:
    """Return how far the people of a set agree.

    The arithmetic runs in a thread, so that other pages do not wait, and is kept until a label changes.
    """
    labels = await queries.list_ratings(session, of.id, reader=actor.reader)
    offered = await queries.guideline_categories(session, of.id)
    ratings = tuple(
        Rating(label.feature, label.person_id, label.categories, label.interpretability) for label in labels
    )
    report = await asyncio.to_thread(_measure, ratings, offered)
    changed = await queries.changed_after_others(session, of.id) if of.blind else None
    names = {label.person_id: label.author for label in labels}
    return SetAgreement(report, names, sees_part(of, actor), changed)


@lru_cache(maxsize=8)
def _measure(ratings: tuple[Rating, ...], offered: tuple[str, ...]) -> AgreementReport:
    from app.services.agreement import measure_agreement  # numpy: the site starts without it

    return measure_agreement(ratings, offered)


async def set_collisions(session: AsyncSession, of: LabelSetView, actor: Actor) -> Collisions:
    """Return which features of a set share a label."""
    labels = await queries.list_explanations(session, of.id, reader=actor.reader)
    return await asyncio.to_thread(_collide, tuple(labels))


_collide = lru_cache(maxsize=8)(find_collisions)
