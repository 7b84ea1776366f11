"""Labels and their history."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import Protocol, TypeVar

from sqlalchemy import bindparam, false, func, literal, or_, select, text, true, tuple_, union_all, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.activity import Event, add_activity, count_changes
from app.queries.people import ensure_names
from app.queries.sql.expressions import in_array, submitted
from app.queries.sql.pg_safe import is_id
from app.queries.sql.visibility import NOBODY, Reader, public_decision, visible_label
from app.tables import Label, LabelDecision, LabelRevision, LabelSet, Person
from app.tables.labels import CONTENT


@dataclass(frozen=True, slots=True)
class LabelText:
    """Content of a label: what its author writes."""

    explanation: str
    categories: tuple[str, ...] = ()
    interpretability: int | None = None
    confidence: int | None = None
    status: str = "submitted"
    cant_tell: bool = False


@dataclass(frozen=True, slots=True)
class LabelView:
    """One person's label of one feature in one set."""

    id: int
    sae_id: int
    feature: int
    label_set_id: int
    label_set: str
    person_id: int
    author: str
    is_account: bool
    status: str
    version: int
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    confidence: int | None
    cant_tell: bool
    created_at: datetime
    updated_at: datetime

    @property
    def text(self) -> LabelText:
        """Return its content."""
        return LabelText(
            self.explanation, self.categories, self.interpretability, self.confidence, self.status, self.cant_tell
        )


@dataclass(frozen=True, slots=True)
class LabelRevisionView:
    """A label at one of its versions; `by` did the `act` that made it."""

    version: int
    act: str
    by: str
    status: str
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    confidence: int | None
    cant_tell: bool
    guideline_version: int | None
    index_id: int | None
    suggestion_id: int | None
    changed_at: datetime

    @property
    def text(self) -> LabelText:
        """Return its content."""
        return LabelText(
            self.explanation, self.categories, self.interpretability, self.confidence, self.status, self.cant_tell
        )


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What a feature is called, and by whom: the newest decision, or else its newest label; and how many labels."""

    count: int
    explanation: str
    author: str
    is_decision: bool = False


@dataclass(frozen=True, slots=True)
class Act:
    """What was done to a label, by whom, and what they saw: index and version of the guideline."""

    person_id: int
    act: str = "saved"
    index_id: int | None = None
    guideline_version: int | None = None
    suggestion_id: int | None = None
    """The machine's suggestion whose words the label has."""


_LABELS = (
    select(Label, LabelSet.name.label("label_set"), Person.is_account)
    .join(LabelSet, LabelSet.id == Label.label_set_id)
    .join(Person, Person.id == Label.person_id)
    .execution_options(populate_existing=True)
)


async def list_labels(session: AsyncSession, sae_id: int, feature: int, *, reader: Reader = NOBODY) -> list[LabelView]:
    """Return the labels of one feature that `reader` may see, newest first: submitted ones, and their drafts."""
    parameters = {"sae": sae_id, "feature": feature, **reader.parameters}
    return [_view(*row) for row in await session.execute(_OF_FEATURE, parameters)]


_OF_FEATURE = _LABELS.where(
    Label.sae_id == bindparam("sae"), Label.feature == bindparam("feature"), visible_label
).order_by(Label.updated_at.desc(), Label.id.desc())


async def get_label(
    session: AsyncSession, label_id: int, *, reader: Reader = NOBODY, with_own_discarded: bool = False
) -> LabelView | None:
    """Return the label with this id, None if there is none that `reader` may see.

    Their own is there with `with_own_discarded` even after they discarded it.
    """
    if not is_id(label_id):
        return None
    seen = or_(visible_label, Label.person_id == reader.person_id) if with_own_discarded else visible_label
    found = _LABELS.where(Label.id == label_id, seen)
    row = (await session.execute(found, reader.parameters)).one_or_none()
    return None if row is None else _view(*row)


async def find_label(session: AsyncSession, label_set_id: int, feature: int, person_id: int | None) -> LabelView | None:
    """Return one person's label of a feature in a set, whatever its status."""
    own = Label.label_set_id == label_set_id, Label.feature == feature, Label.person_id == person_id
    row = (await session.execute(_LABELS.where(*own))).one_or_none()
    return None if row is None else _view(*row)


async def label_summaries(session: AsyncSession, sae_id: int, features: Collection[int]) -> dict[int, LabelSummary]:
    """Return what many features are called, as everybody sees it; those that nobody could explain are absent."""
    rows = await session.execute(_EXPLAINED, {"sae": sae_id, "features": list(features)})
    summaries = {}
    for feature, found in groupby(rows, key=lambda row: row.feature):
        first, *others = found
        labels = [row for row in (first, *others) if not row.is_decision]
        summaries[feature] = LabelSummary(len(labels), first.explanation, first.author, first.is_decision)
    return summaries


_SUBMITTED = select(
    Label.feature, Label.explanation, Label.author, false().label("is_decision"), Label.updated_at.label("at"), Label.id
).where(Label.sae_id == bindparam("sae"), in_array(Label.feature, "features"), submitted, Label.explanation != "")
_DECIDED = (
    select(
        LabelDecision.feature,
        LabelDecision.explanation,
        Person.name,
        true(),
        LabelDecision.decided_at,
        LabelDecision.id,
    )
    .join(LabelSet, LabelSet.id == LabelDecision.label_set_id)
    .join(Person, Person.id == LabelDecision.person_id)
    .where(LabelSet.sae_id == bindparam("sae"), in_array(LabelDecision.feature, "features"))
    .where(public_decision, LabelDecision.explanation != "")
)
_EXPLAINED = union_all(_SUBMITTED, _DECIDED)
_EXPLAINED = _EXPLAINED.order_by(
    _EXPLAINED.selected_columns.feature, text("is_decision DESC"), text("at DESC"), text("id DESC")
)


async def submitted_labels(
    session: AsyncSession, sae_id: int, *, after: LabelView | None = None, limit: int
) -> list[LabelView]:
    """Return the submitted labels of an SAE that everybody sees and that follow `after`, by features and ids."""
    place = (-1, 0) if after is None else (after.feature, after.id)
    query = (
        _LABELS.where(Label.sae_id == sae_id, submitted)
        .where(tuple_(Label.feature, Label.id) > tuple_(*map(literal, place)))
        .order_by(Label.feature, Label.id)
        .limit(limit)
    )
    return [_view(*row) for row in await session.execute(query)]


async def put_label(
    session: AsyncSession,
    *,
    sae_id: int,
    feature: int,
    label_set_id: int,
    person_id: int,
    author: str,
    text: LabelText,
    withheld: bool,
    expected_version: int | None,
    act: Act,
) -> LabelView | None:
    """Write a label and its revision, if its version is still `expected_version` (None: there is none yet).

    Returns:
        The label as written, or None where the version is another; nothing is then written.
    """
    owner = {"sae_id": sae_id, "feature": feature, "label_set_id": label_set_id, "person_id": person_id}
    content = {
        "author": author,
        "status": text.status,
        "explanation": text.explanation,
        "categories": list(text.categories),
        "interpretability": text.interpretability,
        "confidence": text.confidence,
        "cant_tell": text.cant_tell,
    }
    if expected_version is None:
        new = insert(Label).values(**owner, **content, withheld=withheld, version=1).on_conflict_do_nothing()
        row = (await session.execute(new.returning(Label.id, Label.version))).one_or_none()
    else:
        changed = (
            update(Label)
            .filter_by(**owner, version=expected_version)
            .values(**content, withheld=withheld, version=Label.version + 1, updated_at=func.now())
            .returning(Label.id, Label.version)
        )
        row = (await session.execute(changed, execution_options={"synchronize_session": False})).one_or_none()
    if row is None:
        return None
    acted = {
        "person_id": act.person_id,
        "act": act.act,
        "index_id": act.index_id,
        "guideline_version": act.guideline_version,
        "suggestion_id": act.suggestion_id,
    }
    await session.execute(insert(LabelRevision).values(label_id=row.id, version=row.version, **content, **acted))
    await add_activity(
        session, Event(act.person_id, f"label {act.act}", sae_id, label_set_id, feature=feature, subject=row.id)
    )
    return await find_label(session, label_set_id, feature, person_id)


_ADDED_AT_ONCE = 1000


async def add_labels(
    session: AsyncSession, sae_id: int, label_set_id: int, labels: Iterable[tuple[int, str, str]]
) -> int:
    """Write many submitted labels (feature, author, explanation) under names; return the number of new ones.

    One that its author has written already is left as it is.
    """
    added = 0
    left = iter(labels)
    while chunk := list(islice(left, _ADDED_AT_ONCE)):
        people = await ensure_names(session, {author for _, author, _ in chunk})
        values = [
            {
                "sae_id": sae_id,
                "feature": feature,
                "label_set_id": label_set_id,
                "person_id": people[author],
                "author": author,
                "status": "submitted",
                "explanation": explanation,
                "categories": [],
                "version": 1,
            }
            for feature, author, explanation in chunk
        ]
        new = insert(Label).values(values).on_conflict_do_nothing().returning(Label.id)
        ids = list(await session.scalars(new))
        copied = ("version", "person_id", *CONTENT)
        first = select(Label.id, literal("imported"), *(getattr(Label, name) for name in copied))
        rows = first.where(in_array(Label.id, ids))
        await session.execute(insert(LabelRevision).from_select(["label_id", "act", *copied], rows))
        added += len(ids)
    if added:
        await count_changes(session, sae_id)
    return added


async def label_histories(
    session: AsyncSession, labels: Collection[LabelView], *, reader: Reader = NOBODY
) -> dict[int, list[LabelRevisionView]]:
    """Return the versions of these labels that `reader` may see, by the label's id, newest first."""
    histories: dict[int, list[LabelRevisionView]] = {}
    if not labels:
        return histories
    parameters = {
        "labels": [label.id for label in labels],
        "own": [label.id for label in labels if label.person_id == reader.person_id],
    }
    for revision, by in await session.execute(_HISTORIES, parameters):
        histories.setdefault(revision.label_id, []).append(_revision(revision, by))
    return histories


class _Acted(Protocol):
    @property
    def act(self) -> str: ...


_Change = TypeVar("_Change", bound=_Acted)


def standing_changes(history: Iterable[_Change]) -> list[_Change]:
    """Return the changes of a label that nobody took back, the oldest first; `history` is in this order too.

    An undo takes back the last one that stands, so that undoing again goes further back. Giving a label to an account
    changes nothing that it says.
    """
    standing: list[_Change] = []
    for change in history:
        if change.act == "undone":
            del standing[-1:]
        elif change.act != "claimed":
            standing.append(change)
    return standing


_HISTORIES = (
    select(LabelRevision, Person.name)
    .join(Person, Person.id == LabelRevision.person_id)
    .where(
        in_array(LabelRevision.label_id, "labels"),
        or_(LabelRevision.status != "draft", in_array(LabelRevision.label_id, "own")),
    )
    .order_by(LabelRevision.label_id, LabelRevision.version.desc())
)


def _revision(revision: LabelRevision, by: str) -> LabelRevisionView:
    return LabelRevisionView(
        version=revision.version,
        act=revision.act,
        by=by,
        status=revision.status,
        explanation=revision.explanation,
        categories=tuple(revision.categories),
        interpretability=revision.interpretability,
        confidence=revision.confidence,
        cant_tell=revision.cant_tell,
        guideline_version=revision.guideline_version,
        index_id=revision.index_id,
        suggestion_id=revision.suggestion_id,
        changed_at=revision.changed_at,
    )


def _view(label: Label, label_set: str, is_account: bool) -> LabelView:
    return LabelView(
        id=label.id,
        sae_id=label.sae_id,
        feature=label.feature,
        label_set_id=label.label_set_id,
        label_set=label_set,
        person_id=label.person_id,
        author=label.author,
        is_account=is_account,
        status=label.status,
        version=label.version,
        explanation=label.explanation,
        categories=tuple(label.categories),
        interpretability=label.interpretability,
        confidence=label.confidence,
        cant_tell=label.cant_tell,
        created_at=label.created_at,
        updated_at=label.updated_at,
    )
