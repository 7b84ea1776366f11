"""Rules of labelling: limits of the text, one label a person a feature a set, and no change lost."""

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, Unprocessable
from app.queries.label_flow import end_lease
from app.queries.label_sets import (
    DEFAULT,
    LabelSetView,
    current_guideline,
    ensure_set,
    find_set,
    has_feature,
    keep_set,
    set_like,
)
from app.queries.labels import (
    Act,
    LabelText,
    LabelView,
    find_label,
    get_label,
    label_histories,
    put_label,
    standing_changes,
)
from app.queries.saes import SaeDetail, get_saes
from app.queries.sql.pg_safe import MAX_INTEGER, storable
from app.queries.suggestions import suggestion_of_text
from app.services.actors import Actor, Role, ensure_person
from app.services.texts import one_line, trim, unix_lines

MAX_EXPLANATION = 2_000
MAX_CATEGORIES = 10
MAX_CATEGORY = 40
MAX_NAME = 80
"""Characters in the name of an author or of a label set."""
STATUSES = ("draft", "submitted", "discarded")
SCALE = range(1, 6)
"""Scale of interpretability and confidence."""


class LabelConflict(Conflict):
    """The label changed since it was read. Carries both texts, so that neither is lost."""

    def __init__(self, current: LabelView | None, submitted: LabelText) -> None:
        super().__init__("Your label was changed elsewhere since you opened it: compare both texts and save again.")
        self.current = current
        self.submitted = submitted


async def save_label(
    session: AsyncSession,
    sae: SaeDetail,
    feature: int,
    *,
    actor: Actor,
    text: LabelText,
    expected_version: int | None,
    label_set: str = DEFAULT,
    act: str = "saved",
) -> LabelView:
    """Write one person's label; `expected_version` is the version that was read, None if there was no label yet.

    A label that reads so already is returned as it is: a request that is sent twice does not conflict with itself.

    Raises:
        NotFound: the SAE has no such feature, or the actor may not make a set of this name and there is none.
        Unprocessable: the text is missing, too long, or holds what a label cannot; or the set is not about the feature.
        Conflict: the set is closed.
        LabelConflict: the label has another version by now.
    """
    if feature not in range(sae.d_sae):
        raise NotFound(f"{sae.slug} has no feature {feature}: its features are 0 to {sae.d_sae - 1}.")
    author = tidy_name("author", actor.name)
    label_set = tidy_name("label set", label_set)
    tidy = _tidy(text)
    _check(tidy)
    person_id = await ensure_person(session, replace(actor, name=author))
    of_set = await _set_to_write(session, sae, label_set, actor, person_id)
    await _check_fits(session, of_set, feature, person_id, tidy)
    if expected_version is None:
        expected_version = await _discarded_version(session, of_set.id, feature, person_id)
    possible = expected_version is None or 0 < expected_version < MAX_INTEGER
    label = None
    if possible:
        label = await put_label(
            session,
            sae_id=sae.id,
            feature=feature,
            label_set_id=of_set.id,
            person_id=person_id,
            author=author,
            text=tidy,
            withheld=of_set.withholds,
            expected_version=expected_version,
            act=Act(
                person_id,
                act,
                sae.index.id if sae.index else None,
                of_set.guideline,
                await suggestion_of_text(session, sae.id, feature, tidy.explanation),
            ),
        )
    if label is not None:
        await end_lease(session, of_set.id, feature, person_id)
        return label
    current = await find_label(session, of_set.id, feature, person_id)
    if current is None or current.text != tidy:
        raise LabelConflict(current, tidy)
    return current


async def _discarded_version(session: AsyncSession, set_id: int, feature: int, person_id: int) -> int | None:
    """Return the version of a label that its author discarded: a new one continues its history."""
    own = await find_label(session, set_id, feature, person_id)
    return own.version if own and own.status == "discarded" else None


async def undo_label(session: AsyncSession, label_id: int, *, actor: Actor, expected_version: int) -> LabelView:
    """Take back the last change of one's own label that still stands: a new revision, which reads as the one before.

    A label all of whose changes were taken back is discarded.

    Raises:
        NotFound: the actor has no such label.
        Conflict: the set is closed, or every change was taken back.
        LabelConflict: the label has another version by now.
    """
    label = await find_own_label(session, label_id, actor)
    standing = standing_changes((await label_histories(session, [label], reader=actor.reader))[label.id][::-1])
    if label.status == "discarded" and not standing:
        raise Conflict("Every change of this label was taken back already: write it again if you want it back.")
    before = standing[-2].text if len(standing) > 1 else replace(label.text, status="discarded")
    return await _rewrite(session, label, before, actor, expected_version, "undone")


async def discard_label(session: AsyncSession, label_id: int, *, actor: Actor, expected_version: int) -> LabelView:
    """Take one's own label away from everybody; its history stays, and it can be undone.

    Raises:
        NotFound, Conflict, LabelConflict: as for undoing.
    """
    label = await find_own_label(session, label_id, actor)
    discarded = replace(label.text, status="discarded")
    return await _rewrite(session, label, discarded, actor, expected_version, "discarded")


async def _rewrite(
    session: AsyncSession, label: LabelView, text: LabelText, actor: Actor, expected_version: int, act: str
) -> LabelView:
    sae = (await get_saes(session, [label.sae_id]))[label.sae_id]
    return await save_label(
        session,
        sae,
        label.feature,
        actor=actor,
        text=text,
        expected_version=expected_version,
        label_set=label.label_set,
        act=act,
    )


async def find_own_label(session: AsyncSession, label_id: int, actor: Actor) -> LabelView:
    """Return the actor's label with this id, whatever its status.

    Raises:
        NotFound: the actor has no such label.
    """
    found = await get_label(session, label_id, reader=actor.reader, with_own_discarded=True)
    if found is None or not actor.owns(found.person_id):
        raise NotFound(f"You have no label {label_id}: only who wrote a label takes it back.")
    return found


async def _set_to_write(session: AsyncSession, sae: SaeDetail, name: str, actor: Actor, person_id: int) -> LabelSetView:
    """Return the set of this name, which stays as it is until the label is written; a reviewer who names a new one
    makes it."""
    found = await find_set(session, sae.id, name)
    alike = await set_like(session, sae.id, name) if found is None else None
    if alike is not None:
        raise NotFound(f"{sae.slug} has no label set “{name}”, but “{alike}”.")
    if found is None and (name == DEFAULT or actor.role >= Role.reviewer):
        found = await ensure_set(session, sae.id, name, person_id=None if name == DEFAULT else person_id)
    kept = await keep_set(session, found.id) if found else None
    if kept is None:
        raise NotFound(f"{sae.slug} has no label set “{name}”. A reviewer can make one.")
    return kept


async def _check_fits(
    session: AsyncSession, of_set: LabelSetView, feature: int, person_id: int, text: LabelText
) -> None:
    """Check a label against the rules of its set."""
    if of_set.closed_at is not None:
        raise Conflict(f"The label set “{of_set.name}” is closed: a reviewer can open it again.")
    if not of_set.takes_any and not await has_feature(session, of_set.id, feature):
        raise Unprocessable(f"The label set “{of_set.name}” is not about feature {feature}.")
    if text.status == "discarded":
        return
    guideline = await current_guideline(session, of_set.id) if of_set.guideline else None
    known = guideline.categories if guideline else ()
    if known:
        own = await find_label(session, of_set.id, feature, person_id)
        kept = own.categories if own else ()  # chosen from an earlier version of the guideline
        unknown = next((name for name in text.categories if name not in (*known, *kept)), None)
        if unknown is not None:
            raise Unprocessable(f"“{unknown}” is not a category of this set: choose from {', '.join(known)}.")
    if text.status == "submitted" and not (text.explanation or text.cant_tell or (known and text.categories)):
        choice = ", choose a category" if known else ""
        raise Unprocessable(f"A label needs an explanation: say what the feature responds to{choice}, or save a draft.")


def _tidy(text: LabelText) -> LabelText:
    """`text` with Unix line ends, without white space around it, and without empty or repeated categories."""
    trimmed = (one_line(category) for category in text.categories)
    return replace(
        text,
        explanation=trim(unix_lines(text.explanation)),
        categories=tuple(dict.fromkeys(category for category in trimmed if category)),
    )


def _check(text: LabelText) -> None:
    if text.status not in STATUSES:
        raise Unprocessable(f"A label's status is one of {', '.join(STATUSES)}.")
    if len(text.explanation) > MAX_EXPLANATION:
        raise Unprocessable(
            f"An explanation may have {MAX_EXPLANATION:,} characters; this one has {len(text.explanation):,}."
        )
    if len(text.categories) > MAX_CATEGORIES:
        raise Unprocessable(f"A label may have {MAX_CATEGORIES} categories; this one has {len(text.categories)}.")
    if any(len(category) > MAX_CATEGORY for category in text.categories):
        raise Unprocessable(f"A category may have {MAX_CATEGORY} characters.")
    if not all(storable(part) for part in (text.explanation, *text.categories)):
        raise Unprocessable("A label cannot hold NUL or broken characters: remove them.")
    for name, value in (("Interpretability", text.interpretability), ("Confidence", text.confidence)):
        if value is not None and value not in SCALE:
            raise Unprocessable(f"{name} goes from {SCALE[0]} to {SCALE[-1]}.")


def tidy_name(what: str, name: str) -> str:
    """Return the name of an author, or of `what` else, in one line and without what cannot be seen at its ends.

    Raises:
        Unprocessable: it is empty, too long or cannot be stored.
    """
    tidy = one_line(name)
    if not tidy or len(tidy) > MAX_NAME or not storable(tidy):
        raise Unprocessable(f"The name of the {what} must have 1 to {MAX_NAME} characters, and no NUL.")
    return tidy
