"""Small text sets for tests."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.text_sets import TextItem, TextSetView
from app.services.actors import Actor
from app.services.text_set_about import About
from app.services.text_sets import create_text_set, split_by_hash


async def make_text_set(
    session: AsyncSession, name: str = "moods", texts: Sequence[tuple[str, str | None]] = (), *, offensive: bool = False
) -> TextSetView:
    """Store a set of (text, label); by default forty happy and forty sad ones."""
    words = texts or [
        (f"a {mood} day, the {number}th of its kind", mood) for number in range(40) for mood in ("happy", "sad")
    ]
    items = [TextItem(number, text, "train", label) for number, (text, label) in enumerate(words)]
    about = About(name=name, description="Days", source="made up", licence="CC0", offensive=offensive)
    return await create_text_set(session, about, split_by_hash(items), actor=Actor("ada"))


async def make_pairs(session: AsyncSession, name: str = "pairs") -> TextSetView:
    """Store an offensive set of pairs, chats and more, in which everything is long or strange once."""
    items = [
        TextItem(2 * number + side, text, "train", label=label, group="a group " * 9, pair=f"p{number}", fields=fields)
        for number in range(12)
        for side, (label, text, fields) in enumerate(
            (("more", f"they {number} were " + "x" * 300, {}), ("less", f"they {number} were not", {"why": ["a", "b"]}))
        )
    ]
    chat = ({"role": "user", "content": "<b>hi</b>"}, {"role": "assistant", "content": "hello"})
    items.append(TextItem(24, "hi hello", "train", score=0.25, chat=chat, fields={"turns": 2}))
    about = About(name=name, description="Pairs " * 40, source="made up", url="https://example.org", offensive=True)
    return await create_text_set(session, about, split_by_hash(items), actor=Actor("ada"))
