import re
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.sql import SQL
from sqlalchemy import text

from app.database_url import connection_params, libpq_url, url_of
from app.db import create_engine
from app.errors import UserError
from app.supervision.embedded_postgres import check

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
    async with engine.connect() as opened:
        assert await opened.scalar(text("SELECT current_user")) == "hostile"
    assert "SECRET" not in repr(engine)
    await engine.dispose()
