"""Text sets as they are stored and read."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.text_sets import TextItem, get_text_set, list_text_sets, list_texts
from app.services.actors import Actor
from app.services.text_set_about import About
from app.services.text_sets import create_text_set
from tests.text_sets import make_text_set


async def test_a_text_comes_back_as_it_went_in(session: AsyncSession) -> None:
    chat = ({"role": "user", "content": "hi"},)
    items = [
        TextItem(0, "hi", "test", chat=chat, fields={"answers": ["a", "b"]}),
        TextItem(1, "she is a nurse", "train", label="more", group="gender", pair="7", score=0.5),
    ]
    stored = await create_text_set(session, About(name="both"), items, actor=Actor("ada"))
    assert await list_texts(session, stored.id) == items
    assert (stored.counts.chats, stored.counts.pairs, stored.counts.scores, stored.owner) == (1, 1, 1, "ada")


async def test_texts_of_a_label_and_a_part(session: AsyncSession) -> None:
    stored = await make_text_set(session)
    happy = await list_texts(session, stored.id, label="happy", split="train")
    assert {(each.label, each.split) for each in happy} == {("happy", "train")}
    assert len(await list_texts(session, stored.id, label="happy")) == stored.counts.labels["happy"] == 40
    assert [each.number for each in await list_texts(session, stored.id, after=5, limit=2)] == [6, 7]


async def test_newest_sets_come_first(session: AsyncSession) -> None:
    for name in ("one", "two", "three"):
        await make_text_set(session, name)
    page, before = await list_text_sets(session, limit=2)
    rest, end = await list_text_sets(session, limit=2, before=before)
    assert ([each.name for each in (*page, *rest)], end) == (["three", "two", "one"], None)
    assert await get_text_set(session, "none") is None
