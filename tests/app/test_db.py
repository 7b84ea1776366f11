from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app import db
from app.database_url import libpq_url
from app.db import create_engine, create_readers, create_sessionmaker, transaction
from app.errors import Unavailable

Sessions = async_sessionmaker[AsyncSession]


async def count_corpora(sessionmaker: Sessions) -> int:
    async with transaction(sessionmaker) as session:
        return (await session.scalar(text("SELECT count(*) FROM corpus"))) or 0


INSERT = text(
    "INSERT INTO corpus (slug, title, source, licence, attribution, sha256, documents) "
    "VALUES ('a', 'A', '', '', '', '', 0)"
)


async def test_a_transaction_commits_at_its_end(sessionmaker: Sessions) -> None:
    async with transaction(sessionmaker) as session:
        await session.execute(INSERT)
    assert await count_corpora(sessionmaker) == 1


async def test_an_error_rolls_the_transaction_back(sessionmaker: Sessions) -> None:
    with pytest.raises(IntegrityError):
        async with transaction(sessionmaker) as session:
            await session.execute(INSERT)
            await session.execute(INSERT)
    assert await count_corpora(sessionmaker) == 0


@pytest.mark.parametrize("proven", [0.0, 1e9])
async def test_the_pool_survives_a_restart_of_the_database(
    database_url: str, sessionmaker: Sessions, monkeypatch: pytest.MonkeyPatch, proven: float
) -> None:
    """Both ways: by a ping, and by the socket alone."""
    monkeypatch.setattr(db, "PROVEN", proven)
    assert await count_corpora(sessionmaker) == 0
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert await count_corpora(sessionmaker) == 0


async def test_a_connection_is_pinged_only_after_a_pause(
    engine: AsyncEngine, sessionmaker: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ping = engine.dialect.do_ping
    monkeypatch.setattr(engine.dialect, "do_ping", lambda connection: asked.append(connection) or ping(connection))
    for _ in range(3):
        await count_corpora(sessionmaker)
    assert asked == []
    monkeypatch.setattr(db, "PROVEN", 0.0)
    await count_corpora(sessionmaker)
    assert len(asked) == 1


async def test_a_reader_has_no_transaction(engine: AsyncEngine, sessionmaker: Sessions) -> None:
    async def is_one_moment(sessions: Sessions) -> bool:
        async with transaction(sessions) as session:
            began = text("SELECT now()")  # when the transaction began
            return await session.scalar(began) == await session.scalar(began)

    assert await is_one_moment(sessionmaker)
    assert not await is_one_moment(create_readers(engine))
    assert await is_one_moment(sessionmaker), "a connection that a reader had is lent with transactions again"


async def test_a_connection_lost_in_a_transaction_is_unavailable(database_url: str, sessionmaker: Sessions) -> None:
    with pytest.raises(Unavailable, match="as soon as it is back"):
        async with transaction(sessionmaker) as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            await session.execute(text("SELECT 1"))
    assert await count_corpora(sessionmaker) == 0


async def test_an_unreachable_database_is_unavailable(tmp_path: Path) -> None:
    engine = create_engine(f"postgresql:///nothing?host={tmp_path}")
    with pytest.raises(Unavailable, match="cannot be reached"):
        await count_corpora(create_sessionmaker(engine))


async def test_a_slow_statement_times_out(database_url: str) -> None:
    engine = create_engine(database_url, statement_timeout=0.05)
    with pytest.raises(Unavailable, match="too long"):
        async with transaction(create_sessionmaker(engine)) as session:
            await session.execute(text("SELECT pg_sleep(30)"))
    await engine.dispose()
