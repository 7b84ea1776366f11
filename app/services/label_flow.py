"""Rules of the flow: the next feature for a person, passing over, taking back, and what they are typing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Unprocessable
from app.queries import label_flow as queries
from app.queries.label_flow import Lease
from app.queries.label_sets import LabelSetView, active_features, has_feature, put_features
from app.queries.labels import LabelText, LabelView, find_label
from app.queries.saes import SaeDetail
from app.queries.sql.locks import lock_until_commit
from app.services.actors import Actor, ensure_person
from app.services.label_sets import MAX_FEATURES
from app.services.labels import MAX_CATEGORIES, MAX_CATEGORY, MAX_EXPLANATION, undo_label

MAX_BESIDES = 10


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A feature that a person has before them again, and their label of it as it is now, if they had one."""

    feature: int
    label: LabelView | None


async def next_feature(
    session: AsyncSession, sae: SaeDetail, of: LabelSetView, actor: Actor, *, besides: Collection[int] = ()
) -> Lease | None:
    """Lease the next feature to the actor; None if nothing is left for them just now.

    A set that takes any feature gets those that are active when somebody first labels it this way, the strongest first.

    Raises:
        Conflict: the set is closed.
        Unprocessable: too many features are on the screen.
    """
    _check_open(of)
    if len(besides) > MAX_BESIDES:
        raise Unprocessable(f"At most {MAX_BESIDES} features can be on the screen.")
    person_id = await ensure_person(session, actor)
    await lock_until_commit(session, f"next feature {of.id} {person_id}")  # asked twice at once, it is one feature
    lease = await queries.lease_next(session, of, person_id, besides=besides)
    if lease is None and of.takes_any and not (await queries.flow_progress(session, of, person_id)).features:
        await put_features(session, of.id, await active_features(session, sae, limit=MAX_FEATURES))
        lease = await queries.lease_next(session, of, person_id, besides=besides)
    return lease


async def skip(session: AsyncSession, of: LabelSetView, feature: int, actor: Actor) -> None:
    """Pass a feature over: it comes back to the actor last.

    Raises:
        Conflict: the set is closed.
        Unprocessable: the set is not about this feature.
    """
    _check_open(of)
    await _check_feature(session, of, feature)
    await queries.skip_feature(session, of.id, feature, await ensure_person(session, actor))


async def take_back(session: AsyncSession, of: LabelSetView, actor: Actor) -> TakenBack | None:
    """Undo what the actor did last in a set, a label or a pass, and lease them that feature; None if there is nothing.

    Done again it goes further back, to other features too, as far as `SITTING` ago.

    Raises:
        Conflict: the set is closed, or the label changed at the same moment.
    """
    _check_open(of)
    person_id = await ensure_person(session, actor)
    last = await queries.last_act(session, of.id, person_id)
    if last is None:
        return None
    label = None
    if last.label_id is None or last.version is None:
        await queries.unskip(session, of.id, last.feature, person_id)
    else:
        label = await undo_label(session, last.label_id, actor=actor, expected_version=last.version)
    await queries.lease_feature(session, of, last.feature, person_id)
    return TakenBack(last.feature, label)


async def keep_draft(
    session: AsyncSession, of: LabelSetView, feature: int, actor: Actor, fields: Mapping[str, Any]
) -> None:
    """Keep what the actor is typing, and the features that they have. What their label says already is not a draft.

    Raises:
        Conflict: the set is closed.
        Unprocessable: the set is not about this feature, or the text is longer than a label.
    """
    _check_open(of)
    if not of.takes_any:
        await _check_feature(session, of, feature)
    if len(fields["explanation"]) > MAX_EXPLANATION:
        raise Unprocessable(f"An explanation may have {MAX_EXPLANATION:,} characters.")
    if sum(map(len, fields["categories"])) > MAX_CATEGORIES * MAX_CATEGORY:
        raise Unprocessable(f"A label may have {MAX_CATEGORIES} categories.")
    person_id = await ensure_person(session, actor)
    mine = await find_label(session, of.id, feature, person_id)
    text = LabelText(**{**fields, "categories": tuple(fields["categories"])})
    if text == (replace(mine.text, status=text.status) if mine else LabelText("")):
        await queries.delete_draft(session, of.id, feature, person_id)
    else:
        await queries.put_draft(session, of.id, feature, person_id, fields)
    await queries.renew_leases(session, of.id, feature, person_id)


def _check_open(of: LabelSetView) -> None:
    if of.closed_at is not None:
        raise Conflict(f"The label set “{of.name}” is closed: a reviewer can open it again.")


async def _check_feature(session: AsyncSession, of: LabelSetView, feature: int) -> None:
    if not await has_feature(session, of.id, feature):
        raise Unprocessable(f"The label set “{of.name}” is not about this feature.")
