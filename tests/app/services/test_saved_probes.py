from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.errors import NotFound, Unprocessable
from app.queries.saved_probes import list_saved_probes
from app.services.actors import Actor
from app.services.saved_probes import delete_saved_probe, find_saved_probe, save_probe
from tests.app.inference.dictionaries import make_dictionary, publish

FIELDS = [("mode", "diff"), ("text", "one\ntwo"), ("other", "three")]


async def test_a_probe_is_kept_until_it_is_deleted(engine: AsyncEngine, tmp_path: Path) -> None:
    sae = await publish(engine, make_dictionary(tmp_path))
    async with transaction(create_sessionmaker(engine)) as session:
        public_id = await save_probe(session, sae, "  Two  texts ", FIELDS, actor=Actor("ada"))
        found = await find_saved_probe(session, sae, public_id)
        assert (found.title, found.author, list(found.fields)) == ("Two texts", "ada", FIELDS)
        assert [one.public_id for one in await list_saved_probes(session, sae.id, 5)] == [public_id]
        await delete_saved_probe(session, sae, public_id, actor=Actor("ada"))
        for gone in (public_id, "\0"):
            with pytest.raises(NotFound, match="no saved probe"):
                await find_saved_probe(session, sae, gone)


@pytest.mark.parametrize(
    ("title", "text", "says"), [("", "x", "1 to 80"), ("x" * 81, "x", "1 to 80"), ("x", "a\0b", "NUL")]
)
async def test_what_cannot_be_stored_is_explained(
    engine: AsyncEngine, tmp_path: Path, title: str, text: str, says: str
) -> None:
    sae = await publish(engine, make_dictionary(tmp_path))
    async with transaction(create_sessionmaker(engine)) as session:
        with pytest.raises(Unprocessable, match=says):
            await save_probe(session, sae, title, [("text", text)], actor=Actor("ada"))
