import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import NotFound, Unprocessable
from app.queries.labels import LabelText, LabelView, get_label, label_histories, label_summaries, list_labels
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import NOBODY, Reader
from app.services.actors import Actor
from app.services.labels import LabelConflict, save_label
from tests.factories import make_sae

Save = Callable[..., Awaitable[LabelView]]


@pytest.fixture
async def sae(engine: AsyncEngine) -> SaeDetail:
    return (await make_sae(engine, publish=False)).sae


@pytest.fixture
def save(session: AsyncSession, sae: SaeDetail) -> Save:
    async def save(text: LabelText, version: int | None = None, *, author: str = "ada", feature: int = 3) -> LabelView:
        return await save_label(session, sae, feature, actor=Actor(author), text=text, expected_version=version)

    return save


async def test_a_label_keeps_its_history(session: AsyncSession, save: Save) -> None:
    first = await save(LabelText("  a guess \n", (" x ", "x", "", "y"), 2, 1, "draft"))
    assert (first.version, first.explanation, first.categories, first.status) == (1, "a guess", ("x", "y"), "draft")
    second = await save(LabelText("names of rivers", (), 5, None), version=1)
    assert (second.id, second.version, second.author, second.label_set) == (first.id, 2, "ada", "default")
    assert second.created_at == first.created_at
    assert await get_label(session, first.id) == second
    assert await get_label(session, first.id, reader=Reader(9_999)) == second

    history = (await label_histories(session, [second], reader=Reader(second.person_id)))[second.id]
    assert [(r.version, r.status, r.explanation, r.categories, r.interpretability, r.confidence) for r in history] == [
        (2, "submitted", "names of rivers", (), 5, None),
        (1, "draft", "a guess", ("x", "y"), 2, 1),
    ]


async def test_a_stale_change_is_refused_with_both_texts(session: AsyncSession, save: Save) -> None:
    label = await save(LabelText("first"))
    await save(LabelText("second"), version=1)
    for version in (1, 3, None, 0, -1, 2**40):
        with pytest.raises(LabelConflict) as caught:
            await save(LabelText(" third "), version=version)
        assert caught.value.current
        assert (caught.value.current.version, caught.value.current.explanation) == (2, "second")
        assert caught.value.submitted.explanation == "third"
    assert len((await label_histories(session, [label]))[label.id]) == 2


async def test_a_version_without_a_label_is_stale(save: Save) -> None:
    with pytest.raises(LabelConflict) as caught:
        await save(LabelText("text"), version=1)
    assert caught.value.current is None


async def test_one_of_two_concurrent_changes_wins(sae: SaeDetail, engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def attempt(explanation: str) -> LabelView:
        async with transaction(sessions) as session:
            return await save_label(
                session, sae, 3, actor=Actor("ada"), text=LabelText(explanation), expected_version=None
            )

    outcomes = await asyncio.gather(attempt("one"), attempt("two"), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if isinstance(outcome, Exception)) == [LabelConflict]
    (written,) = [outcome for outcome in outcomes if isinstance(outcome, LabelView)]
    async with sessions() as session:
        assert [label.explanation for label in await list_labels(session, sae.id, 3)] == [written.explanation]
        assert len((await label_histories(session, [written]))[written.id]) == 1


async def test_each_author_has_a_separate_label(session: AsyncSession, sae: SaeDetail, save: Save) -> None:
    for author in ("ada", "grace"):
        await save(LabelText(f"by {author}"), author=author)
    await save(LabelText("not yet", status="draft"), author="kay")
    await save(LabelText("another"), feature=4)
    assert {label.author for label in await list_labels(session, sae.id, 3)} == {"ada", "grace"}
    summaries = await label_summaries(session, sae.id, [3, 4, 5])
    assert {feature: summary.count for feature, summary in summaries.items()} == {3: 2, 4: 1}


@pytest.mark.parametrize(
    "text",
    [
        LabelText(""),
        LabelText(" \n "),
        LabelText("x" * 2001),
        LabelText("nul\0"),
        LabelText("half \ud800"),
        LabelText("x", categories=tuple(map(str, range(11)))),
        LabelText("x", categories=("c" * 41,)),
        LabelText("x", categories=("nul\0",)),
        LabelText("x", interpretability=0),
        LabelText("x", confidence=6),
        LabelText("x", status="final"),
    ],
)
async def test_invalid_label_texts_are_refused(
    session: AsyncSession, sae: SaeDetail, save: Save, text: LabelText
) -> None:
    with pytest.raises(Unprocessable) as caught:
        await save(text)
    assert "\n" not in str(caught.value)
    assert await list_labels(session, sae.id, 3) == []


async def test_label_texts_at_the_limits_are_allowed(save: Save) -> None:
    categories = tuple(f"{place:040}" for place in range(10))
    label = await save(LabelText("é" * 2000, categories, 1, 5))
    assert (len(label.explanation), label.categories) == (2000, categories)
    assert (await save(LabelText("", status="draft"), feature=4)).explanation == ""


@pytest.mark.parametrize("author", ["", " ", "a" * 81, "nul\0"])
async def test_an_invalid_author_is_refused(save: Save, author: str) -> None:
    with pytest.raises(Unprocessable, match="author"):
        await save(LabelText("x"), author=author)


@pytest.mark.parametrize("feature", [-1, 24, 2**40])
async def test_a_label_on_an_unknown_feature_is_refused(save: Save, feature: int) -> None:
    with pytest.raises(NotFound, match="0 to 23"):
        await save(LabelText("x"), feature=feature)


async def test_an_unknown_label_is_none(session: AsyncSession) -> None:
    for number in (-1, 0, 5, 2**40):
        assert await get_label(session, number) is None


async def test_only_its_author_sees_a_draft(session: AsyncSession, sae: SaeDetail, save: Save) -> None:
    draft = await save(LabelText("perhaps lakes", status="draft"))
    ada, grace = Reader(draft.person_id), Reader(9_999)
    for reader, seen in ((ada, [draft]), (grace, []), (NOBODY, [])):
        assert await list_labels(session, sae.id, 3, reader=reader) == seen
        assert await get_label(session, draft.id, reader=reader) == (draft if seen else None)
    label = await save(LabelText("names of lakes"), version=1)
    for reader, versions in ((ada, [2, 1]), (grace, [2])):
        history = await label_histories(session, [label], reader=reader)
        assert [revision.version for revision in history[label.id]] == versions


async def test_a_label_that_is_sent_twice_does_not_conflict_with_itself(session: AsyncSession, save: Save) -> None:
    first = await save(LabelText("rivers", ("x",)))
    assert await save(LabelText(" rivers\r\n", ("x ", "x"))) == first
    second = await save(LabelText("names of rivers", interpretability=4), version=1)
    assert await save(LabelText("names of rivers", interpretability=4), version=1) == second
    assert len((await label_histories(session, [second]))[second.id]) == 2
    with pytest.raises(LabelConflict):
        await save(LabelText("names of rivers"), version=1)


async def test_two_equal_requests_at_once_write_one_label(sae: SaeDetail, engine: AsyncEngine) -> None:
    async def attempt() -> LabelView:
        async with transaction(async_sessionmaker(engine, expire_on_commit=False)) as session:
            return await save_label(
                session, sae, 3, actor=Actor("ada"), text=LabelText("rivers"), expected_version=None
            )

    one, other = await asyncio.gather(attempt(), attempt())
    assert one == other
    assert one.version == 1


@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n"])
async def test_a_line_end_is_one_character_however_it_was_sent(save: Save, line_end: str) -> None:
    assert (await save(LabelText(f"a{line_end}b"))).explanation == "a\nb"
    lines = ["x" * 99] * 20
    assert len((await save(LabelText(line_end.join(lines)), feature=4)).explanation) == 1999
    assert (await save(LabelText("x", (f"two{line_end}words",)), feature=5)).categories == ("two words",)


@pytest.mark.parametrize("name", ["eve", " eve ", "eve\u200b", "\ufeffeve\r\n", "\u202aeve\u202c"])
async def test_a_name_is_kept_as_people_read_it(save: Save, name: str) -> None:
    assert (await save(LabelText("x"), author=name)).author == "eve"


async def test_what_cannot_be_seen_is_no_text(save: Save) -> None:
    for text, author in (("\u200b\u200b", "eve"), ("x", "\u200b"), ("x", "\u2060 \u00ad")):
        with pytest.raises(Unprocessable):
            await save(LabelText(text), author=author)
