"""Files of labels: a round trip into an empty instance loses nothing; a second time changes nothing; all or nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_engine, create_sessionmaker, transaction
from app.errors import Conflict, NotFound, Unprocessable, UserError
from app.queries.decisions import DecisionText
from app.queries.label_sets import get_set
from app.queries.people import insert_account
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import NOBODY, Reader
from app.services.actors import Actor, Role
from app.services.adjudication import decide, vote
from app.services.comments import add_comment, delete_comment
from app.services.csv_text import csv_text
from app.services.label_files import Imported, import_labels, read_labels
from app.services.label_history import history_records
from app.services.label_records import read_csv, read_jsonl
from app.tables import Label, LabelRevision, Person
from tests.conftest import create_database
from tests.factories import Synthetic, make_sae
from tests.labelling import label, label_together, make_set
from tests.people import sign_in

Sessions = async_sessionmaker[AsyncSession]
ADMIN = Actor("admin")
SET = {
    "record": "set",
    "name": "s",
    "needed": 1,
    "blind": False,
    "order": "random",
    "scope": {},
    "created_by": None,
    "created_at": "2026-01-01T00:00:00Z",
    "closed_at": None,
}


@pytest.fixture
async def elsewhere(postgres_url: str) -> AsyncIterator[tuple[Sessions, SaeDetail]]:
    """An instance that has the same SAE, and no label."""
    with contextmanager(create_database)(postgres_url) as url:
        engine = create_engine(url)
        made = await make_sae(engine)
        yield create_sessionmaker(engine), made.sae
        await engine.dispose()


async def export(sessions: Sessions, sae: SaeDetail, reader: Reader | None = None) -> str:
    async with transaction(sessions) as session:
        records = history_records(session, sae, reader=reader or Reader(sees_all=True))
        return "".join([record.model_dump_json() + "\n" async for record in records])


async def read_back(sessions: Sessions, sae: SaeDetail, text: str, **options: object) -> Imported:
    async with transaction(sessions) as session:
        return await import_labels(session, sae, read_labels(text, "jsonl"), actor=ADMIN, **options)  # type: ignore[arg-type]


async def fill(engine: AsyncEngine, sessions: Sessions, sae: SaeDetail) -> None:
    """Labels with versions, votes, a decision and comments, by people with and without accounts."""
    boss = (await sign_in(engine, "boss", Role.reviewer)).actor
    ada = (await sign_in(engine, "ada", Role.labeller)).actor  # as a name without an account, too
    of = await make_set(engine, sae)
    await label_together(engine, sae)
    async with transaction(sessions) as session:
        first = await label(session, sae, 3, ada, "=rivers <b>", "names")
        await label(session, sae, 3, ada, "rivers, and lakes\nand more", "names", version=first.version)
        await vote(session, first.id, -1, actor=boss)
        found = await get_set(session, of.id)
        assert found is not None
        await decide(
            session, found, sae, 4, actor=boss, text=DecisionText("decided", ("names",), 4, "why"), replaces=None
        )
        said = await add_comment(session, sae, 4, actor=boss, text="why not, @ada?", label_set="medicine")
        answer = await add_comment(session, sae, 4, actor=ada, text="hm", answers=said.id)
        await delete_comment(session, answer.id, actor=ada)


async def test_a_round_trip_into_an_empty_instance_loses_nothing(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, elsewhere: tuple[Sessions, SaeDetail]
) -> None:
    await fill(engine, sessionmaker, made.sae)
    text = await export(sessionmaker, made.sae)
    assert "not ready" not in text  # a draft
    assert '"ada (no account)"' in text
    other, sae = elsewhere
    first = await read_back(other, sae, text)
    assert (first.sets, first.votes, first.decisions, first.comments) == (2 if "default" in text else 1, 1, 1, 2)
    assert first.labels > 30
    assert await export(other, sae) == text
    again = await read_back(other, sae, text)
    assert again == Imported(unchanged=first.labels)
    own = await read_back(sessionmaker, made.sae, text, accounts={"ada": "Ada", "boss": "boss"})
    assert own == again  # where it comes from, too
    async with transaction(other) as session:
        assert not (await session.scalars(select(Person.name).where(Person.is_account))).all()
        assert await session.scalar(select(func.count()).select_from(LabelRevision)) == first.labels + 1


async def test_what_was_written_later_follows_and_what_differs_is_refused_whole(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, elsewhere: tuple[Sessions, SaeDetail]
) -> None:
    other, sae = elsewhere
    async with transaction(sessionmaker) as session:
        written = await label(session, made.sae, 5, "grace", "rivers", label_set="default")
    await read_back(other, sae, await export(sessionmaker, made.sae))
    async with transaction(sessionmaker) as session:
        await label(session, made.sae, 5, "grace", "lakes", label_set="default", version=written.version)
        await label(session, made.sae, 6, "grace", "boats", label_set="default")
    newer = await export(sessionmaker, made.sae)
    assert await read_back(other, sae, newer) == Imported(labels=1, changed=1)
    assert await export(other, sae) == newer
    async with transaction(sessionmaker) as session:
        await label(session, made.sae, 5, "grace", "here", label_set="default", version=2)
        await label(session, made.sae, 7, "grace", "new", label_set="default")
    async with transaction(other) as session:
        await label(session, sae, 5, "grace", "there", label_set="default", version=2)
    with pytest.raises(Conflict, match=r"Line 3: grace's label of feature 5 .* reads differently here"):
        await read_back(other, sae, await export(sessionmaker, made.sae))
    async with transaction(other) as session:
        assert not (await session.scalars(select(Label.id).where(Label.feature == 7))).all()


async def test_names_can_be_given_to_accounts(
    made: Synthetic, sessionmaker: Sessions, elsewhere: tuple[Sessions, SaeDetail]
) -> None:
    other, sae = elsewhere
    async with transaction(sessionmaker) as session:
        await label(session, made.sae, 5, "grace", "rivers", label_set="default")
    text = await export(sessionmaker, made.sae)
    with pytest.raises(NotFound, match="no account named Grace H"):
        await read_back(other, sae, text, accounts={"grace": "Grace H"})
    async with transaction(other) as session:
        await insert_account(session, "Grace H", "labeller")
    await read_back(other, sae, text, accounts={"grace": "grace h"})
    async with transaction(other) as session:
        row = (await session.execute(select(Label, Person).join(Person, Person.id == Label.person_id))).one()
        assert (row.Person.name, row.Person.is_account) == ("Grace H", True)


async def test_readers_of_a_blind_set_export_what_they_may_see(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions
) -> None:
    await make_set(engine, made.sae, blind=True)
    await label_together(engine, made.sae)
    async with transaction(sessionmaker) as session:
        await add_comment(session, made.sae, 4, actor=Actor("grace"), text="a secret", label_set="medicine")
    text = await export(sessionmaker, made.sae, NOBODY)
    assert [json.loads(line)["record"] for line in text.splitlines()] == ["labels", "set"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "empty"),
        (["{"], "Line 1 is not JSON"),
        (["[" * 100_000], "Line 1 is not JSON"),
        (["", "3"], "Line 2 is not a JSON object"),
        ([{"record": "label"}], "Line 1: "),
        ([{"record": "person"}], "Line 1: "),
        ([{"feature": 1, "author": "a", "explanation": "b", "status": "submitted"}, {"record": "set"}], "Line 2: "),
        ([{"feature": 99, "author": "a", "explanation": "b"}], "Line 1: tiny-l1-batchtopk-24 has the features"),
        ([{"feature": 10**30, "author": "a", "explanation": "b"}], "Line 1: feature"),
        ([{"feature": 1, "author": "a\0", "explanation": "b"}], "Line 1 holds NUL"),
        ([{"feature": 1, "author": "a", "explanation": "\ud800"}], "Line 1 holds NUL"),
        ([{"feature": 1, "author": "a", "explanation": " "}], "Line 1: .*explanation"),
        ([{"feature": 1, "author": "a", "explanation": "b", "set": "none"}], "Line 1: there is no label set “none”"),
        ([{"feature": 1, "author": "a", "explanation": "b"}] * 2, "Line 2: a has labelled feature 1 above"),
        ([{"feature": 1, "author": "a" * 1000, "explanation": "b"}], "Line 1: "),
        ([{"feature": 1, "author": " \u200b", "explanation": "b"}], "Line 1: author: A name must have something"),
        ([SET | {"scope": {"features": [1]}}], "Line 1: scope.features"),
        ([SET | {"scope": {"sample": "<b>"}}], "Line 1: scope.sample"),
        ([SET | {"features": [24]}], "Line 1: tiny-l1-batchtopk-24 has the features"),
        ([{"feature": 1, "author": "a", "explanation": "b" * 5000}], "Line 1: "),
        ([{"feature": 1, "author": "a", "explanation": "b", "created_at": "2026-01-01"}], "Line 1: "),
    ],
)
async def test_a_hostile_file_is_refused_with_its_line(
    made: Synthetic, sessionmaker: Sessions, lines: list[object], message: str
) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    with pytest.raises(UserError, match=message):
        await read_back(sessionmaker, made.sae, text)


async def test_a_table_is_read_as_it_was_written(made: Synthetic, sessionmaker: Sessions) -> None:
    rows = [
        ("sae", "feature", "author", "explanation", "categories", "confidence", "cant_tell", "interpretability"),
        ("x", 3, "ann", "=1+1, and\nmore", "a; b", 4, "False", ""),
        ("x", 4, "ann", "", "", "", "True", ""),
    ]
    text = "\ufeff" + csv_text(rows)
    async with transaction(sessionmaker) as session:
        lines = read_labels(text, "csv")
        assert [number for number, _ in lines] == [3, 4]
        assert await import_labels(session, made.sae, lines, actor=ADMIN) == Imported(labels=2)
        assert await import_labels(session, made.sae, lines, actor=ADMIN) == Imported(unchanged=2)
        row = (await session.scalars(select(Label).where(Label.feature == 3))).one()
        assert (row.explanation, row.categories, row.confidence) == ("=1+1, and\nmore", ["a", "b"], 4)
        assert (await session.scalars(select(LabelRevision.act).where(LabelRevision.label_id == row.id))).all() == [
            "imported"
        ]
    for broken in (
        "feature,author\n1,a",
        'feature,author,explanation\n1,a,"' + "b" * 200_000,
        "feature,author,explanation\nx,a,b",
    ):
        with pytest.raises(Unprocessable):
            list(read_csv(broken))
    assert len(list(read_jsonl('{"feature": 1, "author": "a", "explanation": "b", "verified": true}\n\n'))) == 1
