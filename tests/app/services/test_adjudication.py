"""Labels that differ, decisions between them, and votes."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.errors import Forbidden, NotFound, Unprocessable
from app.queries.agreement import SubmittedLabel, list_feature_labels, list_ratings
from app.queries.decisions import DecisionText, current_decisions, decisions_of_feature, list_decisions
from app.queries.sql.visibility import Reader
from app.services.actors import Actor, Role
from app.services.adjudication import (
    DecisionConflict,
    compare_labels,
    decide,
    find_set,
    list_disagreements,
    vote,
)
from app.services.dashboard import set_agreement, set_collisions
from app.tables import Activity, Label, LabelDecision
from tests.factories import Synthetic
from tests.labelling import SHARED, label, label_together, make_set, sign_up

ALL = Reader(sees_all=True)
REVIEWER = Actor("rosa", role=Role.reviewer)


def submitted(person: int, explanation: str, *categories: str, level: int | None = None) -> SubmittedLabel:
    cant_tell = not explanation
    now = datetime.now(UTC)
    return SubmittedLabel(person, 7, person, f"p{person}", 1, explanation, categories, level, None, cant_tell, now)


def test_labels_differ_in_categories_then_scale_then_words() -> None:
    same = [submitted(1, "Names of months", "dates", level=3), submitted(2, "names of months.", "dates", level=3)]
    assert compare_labels(same).differences == ()
    assert compare_labels(same[:1]).differences == ()
    words = compare_labels([same[0], submitted(2, "a part of the year", "dates", level=3)])
    steps = compare_labels([same[0], submitted(2, "names of months", "dates", level=5)])
    categories = compare_labels([same[0], submitted(2, "names of months", "names", level=3)])
    untold = compare_labels([*same, submitted(3, "")])
    assert [found.differences for found in (words, steps, categories, untold)] == [
        ("words",), ("interpretability",), ("categories",), ("can't tell",),
    ]  # fmt: skip
    assert 0 < words.degree < steps.degree < categories.degree == untold.degree == 0.5
    assert compare_labels([submitted(1, ""), submitted(2, "")]).differences == ()
    assert 0.9 < compare_labels([submitted(1, "abc", "a", level=1), submitted(2, "xyz", "b", level=5)]).degree <= 1


async def test_disagreements_are_decided_and_open_again_when_labels_change(
    engine: AsyncEngine, made: Synthetic
) -> None:
    of = await make_set(engine, made.sae)
    await label_together(engine, made.sae)
    async with transaction(create_sessionmaker(engine)) as session:
        found = await list_disagreements(session, of, REVIEWER)
        assert {entry.feature for entry in found} == {0, 4, 8, 12, 5}
        assert [entry.degree for entry in found] == sorted((entry.degree for entry in found), reverse=True)

        text = DecisionText(" words of syntax \r\n", ("syntax", " syntax", ""), 2, "ada saw it")
        first = await decide(session, of, made.sae, 0, actor=REVIEWER, text=text, replaces=None)
        assert first.text == DecisionText("words of syntax", ("syntax",), 2, "ada saw it")
        assert len(first.labels) == 3 and set(first.labels.values()) == {1}
        again = await decide(session, of, made.sae, 0, actor=REVIEWER, text=text, replaces=None)
        assert again == first  # sent twice, it is one
        assert await session.scalar(select(func.count()).select_from(LabelDecision)) == 1

        other = replace(text, explanation="another reading")
        with pytest.raises(DecisionConflict) as conflict:
            await decide(session, of, made.sae, 0, actor=REVIEWER, text=other, replaces=None)
        assert conflict.value.current == first
        second = await decide(session, of, made.sae, 0, actor=REVIEWER, text=other, replaces=first.id)
        assert [entry.id for entry in await list_decisions(session, of.id, reader=ALL, limit=9)] == [
            first.id,
            second.id,
        ]
        assert (await current_decisions(session, of.id, reader=ALL)) == {0: second}
        assert await decisions_of_feature(session, made.sae.id, 0, reader=ALL) == [second]

        found = await list_disagreements(session, of, REVIEWER)
        assert (found[-1].feature, found[-1].state) == (0, "decided")
        await label(session, made.sae, 0, "grace", "changed my mind", "names", version=1)
        found = await list_disagreements(session, of, REVIEWER)
        assert {entry.feature: entry.state for entry in found}[0] == "changed"

        acts = await session.scalars(select(Activity.act).where(Activity.act.startswith("decision")))
        assert list(acts) == ["decision made", "decision made"]
        originals = await session.scalars(select(Label.explanation).where(Label.feature == 0, Label.author == "ada"))
        assert list(originals) == ["words of syntax 0"]


@pytest.mark.parametrize(
    ("feature", "text", "error", "message"),
    [
        (0, DecisionText("\u200b "), Unprocessable, "needs an explanation.*or choose a category"),
        (0, DecisionText("x" * 2001), Unprocessable, "2,000 characters"),
        (0, DecisionText("x", note="x" * 1001), Unprocessable, "1,000 characters"),
        (0, DecisionText("x", tuple("abcdefghijk")), Unprocessable, "10 categories"),
        (0, DecisionText("x\0"), Unprocessable, "NUL"),
        (0, DecisionText("x", (), 6), Unprocessable, "1 to 5"),
        (9, DecisionText("x"), Unprocessable, "no submitted label"),
        (0, DecisionText("x", ("law",)), Unprocessable, "“law” is not a category of this set: choose from syntax"),
        (24, DecisionText("x"), NotFound, "no feature 24"),
        (2**40, DecisionText("x"), NotFound, "no feature"),
    ],
)
async def test_bad_decisions_are_refused_in_words(
    engine: AsyncEngine, made: Synthetic, feature: int, text: DecisionText, error: type[Exception], message: str
) -> None:
    of = await make_set(engine, made.sae)
    async with transaction(create_sessionmaker(engine)) as session:
        await label(session, made.sae, 0, "ada", "dates")
        with pytest.raises(error, match=message):
            await decide(session, of, made.sae, feature, actor=REVIEWER, text=text, replaces=None)


async def test_two_who_decide_at_once_hear_of_each_other(engine: AsyncEngine, made: Synthetic) -> None:
    of = await make_set(engine, made.sae)
    sessions = create_sessionmaker(engine)
    async with transaction(sessions) as session:
        await label(session, made.sae, 0, "ada", "dates")

    async def attempt(number: int) -> bool:
        try:
            async with transaction(sessions) as session:
                text = DecisionText(f"reading {number}")
                await decide(session, of, made.sae, 0, actor=Actor(f"r{number}"), text=text, replaces=None)
        except DecisionConflict as conflict:
            assert conflict.current is not None
            return False
        return True

    assert sum(await asyncio.gather(*map(attempt, range(5)))) == 1


async def test_votes_are_one_per_person_and_not_on_ones_own(engine: AsyncEngine, made: Synthetic) -> None:
    of = await make_set(engine, made.sae)
    async with transaction(create_sessionmaker(engine)) as session:
        theirs = await label(session, made.sae, 0, "ada", "dates")
        draft = await label(session, made.sae, 1, "ada", "dates", status="draft")
        grace = Actor("grace", role=Role.labeller)
        for value, expected in [(1, (1, 0, 1)), (1, (1, 0, 1)), (-1, (0, 1, -1)), (0, (0, 0, 0)), (1, (1, 0, 1))]:
            voted = await vote(session, theirs.id, value, actor=grace)
            assert (voted.up, voted.down, voted.own_vote) == expected
        await vote(session, theirs.id, -1, actor=Actor("linus"))
        [seen] = await list_feature_labels(session, of.id, 0, reader=Reader(theirs.person_id))
        assert (seen.up, seen.down, seen.own_vote) == (1, 1, 0)
        with pytest.raises(Forbidden, match="your own"):
            await vote(session, theirs.id, 1, actor=Actor("ada"))
        for missing in (draft.id, 10**6, 2**40):
            with pytest.raises(NotFound):
                await vote(session, missing, 1, actor=grace)


async def test_agreement_of_a_set_leaves_out_drafts_and_those_who_cannot_tell(
    engine: AsyncEngine, made: Synthetic
) -> None:
    of = await make_set(engine, made.sae)
    await label_together(engine, made.sae)
    async with transaction(create_sessionmaker(engine)) as session:
        found = await set_agreement(session, of, REVIEWER)
        report = found.report
        assert (report.features, report.labels, found.partial) == (SHARED, 2 * SHARED + 5, False)
        assert set(found.names.values()) == {"ada", "grace", "linus"}
        assert report.categories is not None and report.categories.raw.value is not None
        assert 0.6 < report.categories.raw.value < 0.8
        assert [entry.category for entry in report.per_category] == ["syntax", "medicine", "names"]
        shared = await set_collisions(session, of, REVIEWER)
        [exact] = [group for group in shared.groups if group.exact]
        assert (exact.explanations, exact.features) == (("quite another thing",), (0, 4, 8, 12))
        assert shared.labelled == SHARED + 1


async def test_a_blind_set_shows_people_the_features_they_have_labelled(engine: AsyncEngine, made: Synthetic) -> None:
    of = await make_set(engine, made.sae, blind=True)
    await label_together(engine, made.sae)
    linus, _ = await sign_up(engine, "linus the second", Role.labeller)
    async with transaction(create_sessionmaker(engine)) as session:
        of, _ = await find_set(session, of.id)
        assert (await set_agreement(session, of, linus)).report.features == 0
        assert await list_disagreements(session, of, linus) == []
        for feature in (0, 1):
            await decide(session, of, made.sae, feature, actor=REVIEWER, text=DecisionText("it"), replaces=None)
        theirs = (await list_feature_labels(session, of.id, 0, reader=ALL))[0]
        with pytest.raises(NotFound):
            await vote(session, theirs.id, 1, actor=linus)
        assert await list_decisions(session, of.id, reader=linus.reader, limit=9) == []

        await label(session, made.sae, 0, linus, "mine", "names")
        seen = await set_agreement(session, of, linus)
        assert seen.partial and seen.report.features == 1
        assert [entry.feature for entry in await list_disagreements(session, of, linus)] == [0]
        assert [entry.feature for entry in await list_decisions(session, of.id, reader=linus.reader, limit=9)] == [0]
        assert await decisions_of_feature(session, made.sae.id, 1, reader=linus.reader) == []
        assert {rating.feature for rating in await list_ratings(session, of.id, reader=linus.reader)} == {0}
        assert (await vote(session, theirs.id, 1, actor=linus)).up == 1
        assert (await set_agreement(session, of, REVIEWER)).report.features == SHARED
