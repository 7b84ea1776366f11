import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import psycopg
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from httpx import ASGITransport, AsyncClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app import db
from app.db import (
    connection_params,
    create_engine,
    create_readers,
    create_sessionmaker,
    get_session,
    libpq_url,
    transaction,
    url_of,
)
from app.errors import Unavailable, UserError
from app.supervision.embedded_postgres import check

Sessions = async_sessionmaker[AsyncSession]
Session = Annotated[AsyncSession, Depends(get_session, scope="function")]


HOSTILE = "aa@SECRET:/?#%41 '\"$(x)ü"
"""A password of everything that has a meaning in a URL, a shell or a connection string."""
PARTS = st.sampled_from(["SECRET", "QWERTY"]) | st.text(
    st.sampled_from("@:/?#%&=+ '\"\\$[]<>\u2028\nüé😀")
    | st.characters(exclude_categories=["Cs", "Lu"], exclude_characters="\0"),
    max_size=4,
)
PASSWORDS = st.lists(PARTS, min_size=1, max_size=6).map("".join).filter(bool)
"""Passwords whose upper-case words can be found in a message."""


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
def test_every_form_of_a_postgres_url_is_accepted(scheme: str) -> None:
    params = connection_params(f"{scheme}://ada:p%40ss@db:5433/sae")
    assert params == {"user": "ada", "password": "p@ss", "host": "db", "port": "5433", "dbname": "sae"}


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ada:hunter2@db/sae",
        "sqlite:///x.db",
        "hunter2",
        "postgresql://",
        "postgresql://a:b@h:port/d",
        "postgresql://ada:hunter2/sae",  # the @ and the host are missing
        "postgresql://ada:x@hunter2@db/sae",
        "postgresql://ada:x@hunter2/y@db/sae",
        "postgresql://ada:x/hunter2@db/sae",
        "postgresql://ada:x?hunter2@db/sae",
        "postgresql://ada:x#hunter2@db/sae",
        "postgresql://ada:x%hunter2@db/sae",
        "postgresql://ada:x hunter2@db/sae",
        "postgresql://db/sae?hunter2=x",
    ],
)
def test_other_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(UserError, match=r"postgresql://user:password@host:5432/database.*@ as %40") as caught:
        connection_params(url)
    assert "hunter2" not in str(caught.value)


@given(password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), host=st.text("a/,:@ %+é"))
@example(password=HOSTILE, host="/home/a b")
def test_a_url_says_the_same_after_it_was_written(password: str, host: str) -> None:
    params = {"user": "a:b@c d", "password": password, "host": host, "port": "5432", "dbname": "x/y?z #"}
    params = {name: value for name, value in params.items() if value}
    assert connection_params(url_of(params)) == params
    assert connection_params(libpq_url(url_of(params), dbname="other")) == {**params, "dbname": "other"}


@given(password=PASSWORDS, escaped=st.booleans())
@example(password=HOSTILE, escaped=False)
@settings(deadline=None)
def test_no_message_has_a_part_of_any_password(password: str, escaped: bool) -> None:
    url = f"postgresql://ada:{quote(password, safe='') if escaped else password}@127.0.0.1:1/sae"
    with pytest.raises(UserError) as caught:
        check(url)
    engine = ""
    if escaped:
        assert connection_params(url)["password"] == password
        engine = repr(create_engine(url))
    for part in re.findall(r"[A-Z]{4,}", password):
        assert part not in str(caught.value) + engine


async def test_a_hostile_password_opens_its_database_and_no_message_shows_it(database_url: str) -> None:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute(SQL("CREATE ROLE hostile LOGIN SUPERUSER PASSWORD {}").format(HOSTILE))
    url = libpq_url(database_url, user="hostile", password=HOSTILE)
    engine = create_engine(url)
    assert await count_corpora(create_sessionmaker(engine)) == 0
    assert "SECRET" not in repr(engine)
    await engine.dispose()


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


async def test_a_failed_commit_is_an_error_response(engine: AsyncEngine, sessionmaker: Sessions) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE late (id int PRIMARY KEY, other int REFERENCES late DEFERRABLE INITIALLY DEFERRED)")
        )
    app = FastAPI()
    app.state.sessionmaker = sessionmaker

    @app.post("/")
    async def write(session: Session) -> str:
        await session.execute(text("INSERT INTO late VALUES (1, 2)"))
        return "written"

    async with AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test") as client:
        assert (await client.post("/")).status_code == 500


async def test_an_endpoint_receives_unavailable_from_its_session(tmp_path: Path) -> None:
    app = FastAPI()
    app.state.sessionmaker = create_sessionmaker(create_engine(f"postgresql:///nothing?host={tmp_path}"))

    @app.exception_handler(Unavailable)
    async def unavailable(request: object, error: Unavailable) -> JSONResponse:
        return JSONResponse(str(error), error.status)

    @app.get("/")
    async def read(session: Session) -> int:
        return (await session.scalar(text("SELECT 1"))) or 0

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/")).status_code == 503
