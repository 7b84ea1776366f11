"""Rules of labelling: limits of the text, one label a person a feature a set, and no change lost."""

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, Unprocessable
from app.queries.label_sets import DEFAULT, LabelSetView, ensure_set, find_set
from app.queries.labels import Act, LabelText, LabelView, find_label, put_label
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER, storable
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
        Unprocessable: the text is missing, too long, or holds what a label cannot.
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
            act=Act(person_id, act, sae.index.id if sae.index else None, of_set.guideline),
        )
    if label is not None:
        return label
    current = await find_label(session, of_set.id, feature, person_id)
    if current is None or current.text != tidy:
        raise LabelConflict(current, tidy)
    return current


async def _set_to_write(session: AsyncSession, sae: SaeDetail, name: str, actor: Actor, person_id: int) -> LabelSetView:
    """Return the set of this name; a reviewer who names a new one makes it."""
    if name == DEFAULT or actor.role >= Role.reviewer:
        return await ensure_set(session, sae.id, name, person_id=None if name == DEFAULT else person_id)
    found = await find_set(session, sae.id, name)
    if found is None:
        raise NotFound(f"{sae.slug} has no label set “{name}”. A reviewer can make one.")
    return found


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
    if not text.explanation and text.status == "submitted" and not text.cant_tell:
        raise Unprocessable("A label needs an explanation: say what the feature responds to, or save a draft.")
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
