"""Files of labels: a round trip into an empty instance loses nothing; a second time changes nothing; all or nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_engine, create_sessionmaker, transaction
from app.errors import Conflict, NotFound, Unprocessable, UserError
from app.queries.decisions import DecisionText, current_decisions, decisions_of_feature, list_decisions
from app.queries.dictionary import decided
from app.queries.label_sets import get_set, list_sets
from app.queries.labels import find_label, label_summaries, submitted_labels
from app.queries.people import find_name, insert_account
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import NOBODY, Reader
from app.services.actors import Actor, Role
from app.services.adjudication import decide, vote
from app.services.claims import claim
from app.services.comments import add_comment, delete_comment
from app.services.csv_text import csv_text
from app.services.label_files import Format, Imported, import_labels, read_labels, slug_of
from app.services.label_history import history_records
from app.services.label_records import read_csv, read_jsonl
from app.tables import Label, LabelRevision, Person
from app.web.components.export_formats import serialise
from app.web.components.label_models import ExportedLabel
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

DECISION = {
    "record": "decision",
    "set": "default",
    "feature": 1,
    "person": "boss",
    "explanation": "decided",
    "decided_at": "2026-01-01T00:00:00Z",
}
COMMENT = {
    "record": "comment",
    "id": 1,
    "set": "default",
    "feature": 1,
    "person": "a",
    "text": "hm",
    "created_at": "2026-01-01T00:00:00Z",
}
GUIDELINE = {"version": 1, "text": "Be brief.", "categories": [], "person": "a", "created_at": "2026-01-01T00:00:00Z"}
LABEL = {"feature": 1, "author": "a", "explanation": "b"}
VERSION = {
    "author": "a",
    "person": "a",
    "status": "submitted",
    "explanation": "b",
    "version": 1,
    "act": "saved",
    "changed_at": "2026-01-01T00:00:00Z",
}
FULL = {"record": "label", "feature": 1, **{k: VERSION[k] for k in ("author", "person", "status", "explanation")}}
VOTE = {"person": "b", "value": 1, "voted_at": "2026-01-01T00:00:00Z"}
PAST, NEVER = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"
"""Dates that UTC does not have."""


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


async def table_of(rows: list[ExportedLabel], format: Format) -> str:
    async def batches() -> AsyncIterator[list[ExportedLabel]]:
        yield rows

    return "".join([part async for part in serialise(format, batches())])


async def people(sessions: Sessions) -> set[tuple[str, bool]]:
    async with transaction(sessions) as session:
        rows = await session.execute(select(Person.name, Person.is_account))
        return {(name, is_account) for name, is_account in rows}


async def test_a_file_of_this_very_instance_changes_nothing(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions
) -> None:
    await fill(engine, sessionmaker, made.sae)
    text, there = await export(sessionmaker, made.sae), await people(sessionmaker)
    unchanged = text.count('"record":"label"')
    assert await read_back(sessionmaker, made.sae, text) == Imported(unchanged=unchanged)
    assert (await export(sessionmaker, made.sae), await people(sessionmaker)) == (text, there)
    async with transaction(sessionmaker) as session:
        labels = await submitted_labels(session, made.sae.id, limit=99)
    rows = [ExportedLabel.in_file(made.sae.slug, label) for label in labels]
    formats: tuple[Format, ...] = ("csv", "jsonl")
    for format in formats:
        async with transaction(sessionmaker) as session:
            lines = read_labels(await table_of(rows, format), format)
            done = await import_labels(session, made.sae, lines, actor=ADMIN)
        assert (done, slug_of(lines)) == (Imported(unchanged=len(rows)), made.sae.slug)
    assert await export(sessionmaker, made.sae) == text
    # A name that an admin gave to an account since, and what the account changed since.
    async with transaction(sessionmaker) as session:
        linus = await insert_account(session, "Linus T", "labeller")
        assert linus is not None
        await claim(session, await find_name(session, "linus") or 0, linus.id, by=Actor("boss", linus.id))
        row = await find_label(session, (await list_sets(session))[0].set.id, 1, linus.id)
        assert row is not None
        await label(session, made.sae, 1, Actor.of(linus), "changed", version=row.version)
    assert await read_back(sessionmaker, made.sae, text) == Imported(unchanged=unchanged)
    # Newer versions of an account's label are written for nobody but the account.
    records = [json.loads(line) for line in text.splitlines()]
    mine = next(line for line in records if line["record"] == "label" and line["explanation"].startswith("rivers"))
    mine["revisions"].append(mine["revisions"][-1] | {"version": 3, "explanation": "forged"})
    mine |= {"version": 3, "explanation": "forged"}
    forged = "\n".join(map(json.dumps, records))
    with pytest.raises(Conflict, match=r"ada's label of feature 3 .* --person"):
        await read_back(sessionmaker, made.sae, forged)
    assert await read_back(sessionmaker, made.sae, forged, accounts={"ada": "ada"}) == Imported(
        changed=1, unchanged=unchanged - 1
    )


async def test_an_older_decision_does_not_override_a_newer_one(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions
) -> None:
    of = await make_set(engine, made.sae)
    await label_together(engine, made.sae)
    async with transaction(sessionmaker) as session:
        await decide(session, of, made.sae, 4, actor=ADMIN, text=DecisionText("today's"), replaces=None)
    old = DECISION | {"set": "medicine", "feature": 4, "explanation": "old"}
    assert await read_back(sessionmaker, made.sae, json.dumps(old)) == Imported(decisions=1)
    async with transaction(sessionmaker) as session:
        reader = Reader(sees_all=True)
        by_set = await current_decisions(session, of.id, reader=reader)
        of_feature = await decisions_of_feature(session, made.sae.id, 4, reader=reader)
        (shown, _) = await list_decisions(session, of.id, reader=reader, newest_first=True, limit=9)
        listed = await decided(session, made.sae.id)
        summaries = await label_summaries(session, made.sae.id, [4])
    said = {by_set[4].explanation, of_feature[0].explanation, shown.explanation, listed[0].explanation}
    assert said | {summaries[4].explanation} == {"today's"}


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
        ([LABEL | {"created_at": PAST}], "Line 1: created_at: A date must be one that UTC has"),
        ([LABEL | {"updated_at": NEVER}], "Line 1: updated_at: A date must be one that UTC has"),
        ([LABEL | {"created_at": "1969-12-31T00:00:00Z"}], "Line 1: created_at: A date cannot be before 1970"),
        ([LABEL | {"created_at": "9998-01-01T00:00:00Z"}], "Line 1: created_at: A date cannot be in the future"),
        ([SET | {"closed_at": NEVER}], "Line 1: closed_at"),
        ([SET | {"created_at": PAST}], "Line 1: created_at"),
        ([SET | {"guidelines": [GUIDELINE | {"created_at": NEVER}]}], "Line 1: guidelines.0.created_at"),
        ([DECISION | {"decided_at": NEVER}], "Line 1: decided_at"),
        ([COMMENT | {"created_at": PAST}], "Line 1: created_at"),
        ([COMMENT | {"deleted_at": NEVER}], "Line 1: deleted_at"),
        ([FULL | {"revisions": [VERSION | {"changed_at": NEVER}]}], "Line 1: revisions.0.changed_at"),
        ([FULL | {"votes": [VOTE | {"voted_at": NEVER}]}], "Line 1: votes.0.voted_at"),
        ([DECISION | {"guideline_version": 2**31}], "Line 1: guideline_version"),
        ([FULL | {"version": 2**31 - 1}], "Line 1: version"),
        ([FULL | {"revisions": [VERSION | {"guideline_version": 10**30}]}], "Line 1: revisions.0.guideline_version"),
        (
            [SET | {"guidelines": [GUIDELINE, GUIDELINE | {"text": "other"}]}],
            "Line 1: A guideline has each of its versions",
        ),
        ([COMMENT | {"text": " \n"}], "Line 1: A comment needs a text"),
        ([DECISION | {"explanation": "  "}], "Line 1: A decision needs an explanation"),
        ([FULL | {"votes": [VOTE | {"person": "a"}]}], "Line 1: a votes on a label of their own"),
        ([COMMENT, COMMENT | {"id": 2, "answers": 1, "feature": 2}], "Line 2: .* on another feature"),
        (
            [COMMENT, COMMENT | {"id": 2, "answers": 1}, COMMENT | {"id": 3, "answers": 2}],
            "Line 3: it answers an answer",
        ),
        ([COMMENT, COMMENT], "Line 2: a comment above has the number 1"),
        ([SET | {"scope": {"features": 1}, "features": [3]}, LABEL | {"set": "s"}], "Line 2: .* not about feature 1"),
        (
            [SET | {"scope": {"features": 1}, "features": [3]}, DECISION | {"set": "s"}],
            "Line 2: .* not about feature 1",
        ),
        ([SET | {"name": "First pass"}, SET | {"name": "First Pass"}], "Line 2: .* differs in case alone"),
        (
            [SET | {"scope": {"features": 1}, "features": [3]}, SET | {"scope": {"features": 1}, "features": [4]}],
            "Line 2: .* about other features here, which stay",
        ),
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
        'feature,author,explanation\n1,a,"b\n2,a,b',
    ):
        with pytest.raises(Unprocessable):
            list(read_csv(broken))
    assert len(list(read_jsonl('{"feature": 1, "author": "a", "explanation": "b", "verified": true}\n\n'))) == 1
