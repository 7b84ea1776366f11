"""Blind tests: their questions, apart from the truth, and what people answered."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, or_, select
from sqlalchemy.dialects.postgresql import insert as insert_if_new
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.expressions import in_array
from app.queries.sql.pg_safe import is_id
from app.tables import BlindTest, BlindTestItem, BlindTestResult, Label, LabelSet, Person


@dataclass(frozen=True, slots=True)
class NewTest:
    """A test to keep."""

    label_set_id: int
    feature: int
    kind: str
    label_id: int | None
    explanation: str | None
    items: int
    index_id: int
    seed: int
    created_by: int


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item of a test: what is shown of its snippets, and the answer."""

    shown: list[dict[str, Any]]
    hidden: list[dict[str, Any]]
    truth: int
    why: str


@dataclass(frozen=True, slots=True)
class BlindTestView:
    """A test, without its items. `author_id` and `current` are the label's author and its text by now."""

    id: int
    sae_id: int
    label_set_id: int
    label_set: str
    feature: int
    kind: str
    label_id: int | None
    explanation: str | None
    items: int
    seed: int
    created_by: str
    created_at: datetime
    author_id: int | None
    current: str | None

    @property
    def is_current(self) -> bool:
        """False if the label has another text by now."""
        return self.current == self.explanation


@dataclass(frozen=True, slots=True)
class ResultView:
    """Answers of one person."""

    test_id: int
    person_id: int
    tester: str
    answers: list[int]
    confidences: list[float] | None
    score: dict[str, Any]
    answered_at: datetime


async def create_test(session: AsyncSession, test: NewTest, items: Sequence[StoredItem]) -> int:
    """Keep a test with its items, in the order in which they are asked; return its id."""
    test_id = (await session.execute(insert(BlindTest).values(asdict(test)).returning(BlindTest.id))).scalar_one()
    rows = [{"test_id": test_id, "number": number, **asdict(item)} for number, item in enumerate(items)]
    await session.execute(insert(BlindTestItem), rows)
    return test_id


_TESTS = (
    select(
        BlindTest,
        LabelSet.sae_id,
        LabelSet.name.label("label_set"),
        Person.name.label("maker"),
        Label.person_id.label("author_id"),
        Label.explanation.label("current"),
    )
    .join(LabelSet, LabelSet.id == BlindTest.label_set_id)
    .join(Person, Person.id == BlindTest.created_by)
    .outerjoin(Label, Label.id == BlindTest.label_id)
)


async def get_test(session: AsyncSession, test_id: int) -> BlindTestView | None:
    """Return the test with this id."""
    if not is_id(test_id):
        return None
    row = (await session.execute(_TESTS.where(BlindTest.id == test_id))).one_or_none()
    return None if row is None else _view(row)


async def list_tests(
    session: AsyncSession, label_set_id: int, *, before: int | None = None, limit: int
) -> list[BlindTestView]:
    """Return the tests of a set, newest first."""
    query = _TESTS.where(BlindTest.label_set_id == label_set_id).order_by(BlindTest.id.desc()).limit(limit)
    if before is not None:
        query = query.where(BlindTest.id < before)
    return [_view(row) for row in await session.execute(query)]


def _view(row: Any) -> BlindTestView:
    test = row.BlindTest
    return BlindTestView(
        id=test.id,
        sae_id=row.sae_id,
        label_set_id=test.label_set_id,
        label_set=row.label_set,
        feature=test.feature,
        kind=test.kind,
        label_id=test.label_id,
        explanation=test.explanation,
        items=test.items,
        seed=test.seed,
        created_by=row.maker,
        created_at=test.created_at,
        author_id=row.author_id,
        current=row.current,
    )


async def is_discarded(session: AsyncSession, label_id: int) -> bool:
    """True if a label was discarded that everybody saw."""
    found = Label.id == label_id, Label.status == "discarded", ~Label.withheld
    return await session.scalar(select(Label.id).where(*found)) is not None


async def get_questions(session: AsyncSession, test_id: int) -> list[list[dict[str, Any]]]:
    """Return what is shown of each item, in order. This reads nothing of the truth."""
    rows = await session.scalars(
        select(BlindTestItem.shown).where(BlindTestItem.test_id == test_id).order_by(BlindTestItem.number)
    )
    return list(rows)


async def get_items(session: AsyncSession, test_id: int) -> list[StoredItem]:
    """Return the items of a test in order, with the truth."""
    columns = BlindTestItem.shown, BlindTestItem.hidden, BlindTestItem.truth, BlindTestItem.why
    rows = await session.execute(
        select(*columns).where(BlindTestItem.test_id == test_id).order_by(BlindTestItem.number)
    )
    return [StoredItem(*row) for row in rows]


async def put_result(
    session: AsyncSession,
    test_id: int,
    person_id: int,
    answers: Sequence[int],
    confidences: Sequence[float] | None,
    score: dict[str, Any],
) -> bool:
    """Keep what a person answered; False if they have answered this test before."""
    new = insert_if_new(BlindTestResult).values(
        test_id=test_id,
        person_id=person_id,
        answers=list(answers),
        confidences=None if confidences is None else list(confidences),
        score=score,
    )
    done = await session.execute(new.on_conflict_do_nothing().returning(BlindTestResult.test_id))
    return done.one_or_none() is not None


async def list_results(session: AsyncSession, test_ids: Collection[int]) -> dict[int, list[ResultView]]:
    """Return what people answered by test, in the order in which they did; tests that nobody answered are absent."""
    rows = await session.execute(
        select(BlindTestResult, Person.name)
        .join(Person, Person.id == BlindTestResult.person_id)
        .where(in_array(BlindTestResult.test_id, test_ids))
        .order_by(BlindTestResult.answered_at, BlindTestResult.person_id)
    )
    found: dict[int, list[ResultView]] = {}
    for row, name in rows:
        result = ResultView(row.test_id, row.person_id, name, row.answers, row.confidences, row.score, row.answered_at)
        found.setdefault(row.test_id, []).append(result)
    return found


async def told_sequences(
    session: AsyncSession, sae_id: int, feature: int, people: Collection[int], *, but: int | None = None
) -> set[int]:
    """Return the sequences of which one of some people knows the truth about a feature from earlier tests.

    They know it from tests that they answered, and from answered tests of labels that they wrote.

    Args:
        session: to read with.
        sae_id: of the feature's SAE.
        feature: the feature.
        people: ids of persons.
        but: a test to leave out.
    """
    told = (
        select(BlindTestResult.test_id)
        .join(BlindTest, BlindTest.id == BlindTestResult.test_id)
        .join(LabelSet, LabelSet.id == BlindTest.label_set_id)
        .outerjoin(Label, Label.id == BlindTest.label_id)
        .where(LabelSet.sae_id == sae_id, BlindTest.feature == feature)
        .where(or_(in_array(BlindTestResult.person_id, people), in_array(Label.person_id, people)))
    )
    query = select(BlindTestItem.hidden).where(BlindTestItem.test_id.in_(told))
    if but is not None:
        query = query.where(BlindTestItem.test_id != but)
    return _sequences(await session.scalars(query))


async def sequences_of_test(session: AsyncSession, test_id: int) -> set[int]:
    """Return the sequences that a test's snippets are from."""
    return _sequences(await session.scalars(select(BlindTestItem.hidden).where(BlindTestItem.test_id == test_id)))


def _sequences(rows: Iterable[list[dict[str, Any]]]) -> set[int]:
    return {snippet["sequence"] for hidden in rows for snippet in hidden}


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Score of one person on a test of a label; `is_current` is False if the label has another text by now."""

    label_id: int
    test_id: int
    kind: str
    tester: str
    items: int
    score: dict[str, Any]
    is_current: bool
    answered_at: datetime


async def label_scores(session: AsyncSession, label_ids: Collection[int]) -> dict[int, list[LabelScore]]:
    """Return the scores of labels, newest first; labels that nobody was tested on are absent."""
    if not label_ids:
        return {}
    rows = await session.execute(
        select(
            BlindTest.label_id,
            BlindTest.id,
            BlindTest.kind,
            Person.name,
            BlindTest.items,
            BlindTestResult.score,
            BlindTest.explanation == Label.explanation,
            BlindTestResult.answered_at,
        )
        .join(BlindTestResult, BlindTestResult.test_id == BlindTest.id)
        .join(Person, Person.id == BlindTestResult.person_id)
        .join(Label, Label.id == BlindTest.label_id)
        .where(in_array(Label.id, label_ids))
        .order_by(BlindTestResult.answered_at.desc())
    )
    found: dict[int, list[LabelScore]] = {}
    for row in rows:
        score = LabelScore(*row)
        found.setdefault(score.label_id, []).append(score)
    return found


@dataclass(frozen=True, slots=True)
class LabelToTest:
    """A submitted label that says something, with the kinds of test that one tester has not answered of its text."""

    id: int
    label_set_id: int
    feature: int
    explanation: str
    untested: tuple[Any, ...]


async def labels_to_test(
    session: AsyncSession, label_set_id: int, tester_id: int | None, kinds: Sequence[str]
) -> list[LabelToTest]:
    """Return the submitted labels of a set by id, with what of `kinds` the tester has left to answer."""
    labels = await session.execute(
        select(Label.id, Label.label_set_id, Label.feature, Label.explanation)
        .where(Label.label_set_id == label_set_id, Label.status == "submitted", Label.explanation != "")
        .order_by(Label.id)
    )
    answered = await session.execute(
        select(BlindTest.label_id, BlindTest.kind)
        .join(BlindTestResult, BlindTestResult.test_id == BlindTest.id)
        .join(Label, Label.id == BlindTest.label_id)
        .where(
            BlindTest.label_set_id == label_set_id,
            BlindTestResult.person_id == tester_id,
            BlindTest.explanation == Label.explanation,
        )
    )
    done = {(label, kind) for label, kind in answered}
    return [LabelToTest(*row, tuple(kind for kind in kinds if (row.id, kind) not in done)) for row in labels]
