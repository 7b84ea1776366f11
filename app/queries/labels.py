"""Labels and their history."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice

from sqlalchemy import bindparam, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.expressions import in_array, submitted
from app.queries.sql.pg_safe import is_id, storable
from app.tables import Label, LabelRevision, Sae


@dataclass(frozen=True, slots=True)
class LabelText:
    """Content of a label: what its author writes."""

    explanation: str
    categories: tuple[str, ...] = ()
    interpretability: int | None = None
    confidence: int | None = None
    status: str = "submitted"


@dataclass(frozen=True, slots=True)
class LabelView:
    """One person's label of one feature in one set."""

    id: int
    sae_id: int
    feature: int
    author: str
    label_set: str
    status: str
    version: int
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    confidence: int | None
    created_at: datetime
    updated_at: datetime

    @property
    def text(self) -> LabelText:
        """Return its content."""
        return LabelText(self.explanation, self.categories, self.interpretability, self.confidence, self.status)


@dataclass(frozen=True, slots=True)
class LabelRevisionView:
    """A label at one of its versions."""

    version: int
    status: str
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    confidence: int | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """Summary of a feature's labels: the number of submitted ones, and the newest one's text and author."""

    count: int
    explanation: str
    author: str


async def list_labels(session: AsyncSession, sae_id: int, feature: int, *, reader: str = "") -> list[LabelView]:
    """Return the labels of one feature that `reader` may see, newest first: submitted ones, and their drafts."""
    labels = await session.scalars(_OF_FEATURE, {"sae": sae_id, "feature": feature, "reader": reader})
    return [_view(label) for label in labels]


_OF_FEATURE = (
    select(Label)
    .where(
        Label.sae_id == bindparam("sae"),
        Label.feature == bindparam("feature"),
        or_(submitted, Label.author == bindparam("reader")),
    )
    .order_by(Label.updated_at.desc(), Label.id.desc())
)


async def get_label(session: AsyncSession, label_id: int, *, reader: str = "") -> LabelView | None:
    """Return the label with this id, None if there is none that `reader` may see."""
    label = await session.get(Label, label_id, populate_existing=True) if is_id(label_id) else None
    return None if label is None or (label.status == "draft" and label.author != reader) else _view(label)


async def find_label(
    session: AsyncSession, sae_id: int, feature: int, author: str, label_set: str = "default"
) -> LabelView | None:
    """Return one person's label of a feature in a set."""
    if not storable(author):
        return None
    label = await session.scalar(
        select(Label)
        .where(Label.sae_id == sae_id, Label.feature == feature, Label.author == author, Label.label_set == label_set)
        .execution_options(populate_existing=True)
    )
    return None if label is None else _view(label)


async def label_summaries(session: AsyncSession, sae_id: int, features: Collection[int]) -> dict[int, LabelSummary]:
    """Return summaries of the submitted labels of many features; features without one are absent."""
    rows = await session.execute(_SUBMITTED, {"sae": sae_id, "features": list(features)})
    summaries = {}
    for feature, labels in groupby(rows, key=lambda row: row.feature):
        newest, *others = labels
        summaries[feature] = LabelSummary(1 + len(others), newest.explanation, newest.author)
    return summaries


_SUBMITTED = (
    select(Label.feature, Label.explanation, Label.author)
    .where(Label.sae_id == bindparam("sae"), in_array(Label.feature, "features"), submitted)
    .order_by(Label.feature, Label.updated_at.desc(), Label.id.desc())
)


async def submitted_labels(
    session: AsyncSession, sae_id: int, *, after: LabelView | None = None, limit: int
) -> list[LabelView]:
    """Return the submitted labels of an SAE that follow `after`, in order of features and ids."""
    place = (-1, 0) if after is None else (after.feature, after.id)
    query = (
        select(Label)
        .where(Label.sae_id == sae_id, submitted, tuple_(Label.feature, Label.id) > tuple_(*map(literal, place)))
        .order_by(Label.feature, Label.id)
        .limit(limit)
    )
    return [_view(label) for label in await session.scalars(query)]


async def put_label(
    session: AsyncSession,
    *,
    sae_id: int,
    feature: int,
    author: str,
    label_set: str,
    text: LabelText,
    expected_version: int | None,
) -> LabelView | None:
    """Write a label and its revision, if its version is still `expected_version` (None: there is none yet).

    Returns:
        The label as written, or None where the version is another; nothing is then written.
    """
    owner = {"sae_id": sae_id, "feature": feature, "author": author, "label_set": label_set}
    content = {
        "status": text.status,
        "explanation": text.explanation,
        "categories": list(text.categories),
        "interpretability": text.interpretability,
        "confidence": text.confidence,
    }
    if expected_version is None:
        new = insert(Label).values(**owner, **content, version=1).on_conflict_do_nothing().returning(Label)
        label = await session.scalar(new)
    else:
        changed = (
            update(Label)
            .filter_by(**owner, version=expected_version)
            .values(**content, version=Label.version + 1, updated_at=func.now())
            .returning(Label)
        )
        label = await session.scalar(changed, execution_options={"populate_existing": True})
    if label is None:
        return None
    await session.execute(insert(LabelRevision).values(label_id=label.id, version=label.version, **content))
    await _count_changes(session, sae_id, 1)
    return _view(label)


_ADDED_AT_ONCE = 1000


async def add_labels(session: AsyncSession, sae_id: int, labels: Iterable[tuple[int, str, str]]) -> int:
    """Write many submitted labels (feature, author, explanation) to the default set; return the number of new ones.

    One that its author has written already is left as it is.
    """
    added = 0
    left = iter(labels)
    while chunk := list(islice(left, _ADDED_AT_ONCE)):
        values = [
            {
                "sae_id": sae_id,
                "feature": feature,
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
        copied = ("version", "status", "explanation", "categories", "interpretability", "confidence")
        first = select(Label.id, *(getattr(Label, name) for name in copied)).where(in_array(Label.id, ids))
        await session.execute(insert(LabelRevision).from_select(["label_id", *copied], first))
        added += len(ids)
    if added:
        await _count_changes(session, sae_id, added)
    return added


async def _count_changes(session: AsyncSession, sae_id: int, changes: int) -> None:
    changed = update(Sae).where(Sae.id == sae_id).values(label_changes=Sae.label_changes + changes)
    await session.execute(changed, execution_options={"synchronize_session": False})


async def label_histories(
    session: AsyncSession, labels: Collection[LabelView], *, reader: str = ""
) -> dict[int, list[LabelRevisionView]]:
    """Return the versions of these labels that `reader` may see, by the label's id, newest first."""
    histories: dict[int, list[LabelRevisionView]] = {}
    if not labels:
        return histories
    parameters = {
        "labels": [label.id for label in labels],
        "own": [label.id for label in labels if label.author == reader],
    }
    for revision in await session.scalars(_HISTORIES, parameters):
        histories.setdefault(revision.label_id, []).append(_revision(revision))
    return histories


_HISTORIES = (
    select(LabelRevision)
    .where(
        in_array(LabelRevision.label_id, "labels"),
        or_(LabelRevision.status == "submitted", in_array(LabelRevision.label_id, "own")),
    )
    .order_by(LabelRevision.label_id, LabelRevision.version.desc())
)


def _revision(revision: LabelRevision) -> LabelRevisionView:
    return LabelRevisionView(
        version=revision.version,
        status=revision.status,
        explanation=revision.explanation,
        categories=tuple(revision.categories),
        interpretability=revision.interpretability,
        confidence=revision.confidence,
        changed_at=revision.changed_at,
    )


def _view(label: Label) -> LabelView:
    return LabelView(
        id=label.id,
        sae_id=label.sae_id,
        feature=label.feature,
        author=label.author,
        label_set=label.label_set,
        status=label.status,
        version=label.version,
        explanation=label.explanation,
        categories=tuple(label.categories),
        interpretability=label.interpretability,
        confidence=label.confidence,
        created_at=label.created_at,
        updated_at=label.updated_at,
    )
