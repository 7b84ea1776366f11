"""Signing in: who gets in, how long it takes to be told no, and what a stranger can try."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.services import accounts
from app.services.actors import Role
from app.services.passwords import hash_password
from app.settings import Settings
from app.web.return_address import safe_return
from tests.people import sign_in
from tests.web.site import site

PASSWORD = "correct horse battery"


@pytest.fixture
async def ada(engine: AsyncEngine) -> int:
    """An account with a password."""
    hashed = await hash_password(PASSWORD)
    async with transaction(create_sessionmaker(engine)) as session:
        made = await accounts.create_account(session, "Ada", Role.admin, password_hash=hashed)
    assert made.person_id is not None
    return made.person_id


@pytest.fixture
async def https(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The site as browsers see it behind a proxy."""
    behind = Settings(database_url=database_url, home=tmp_path, base_url="https://Lab.Example", host="0.0.0.0")
    async with site(behind) as client:
        client.base_url = httpx.URL("https://lab.example")
        yield client


async def send(client: httpx.AsyncClient, name: str = "ada", password: str = PASSWORD, **more: str) -> httpx.Response:
    return await client.post("/sign-in", data={"name": name, "password": password, **more})


async def test_a_person_signs_in_sees_their_page_and_signs_out(client: httpx.AsyncClient, ada: int) -> None:
    asked = await client.get("/lists?before=3", headers={"accept": "text/html"})
    assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?next=%2Flists%3Fbefore%3D3")
    assert 'name="next" value="/lists?before=3"' in (await client.get(asked.headers["location"])).text
    done = await send(client, " ADA ", next="/lists?before=3")
    assert (done.status_code, done.headers["location"]) == (303, "/lists?before=3")
    page = await client.get("/lists")
    assert page.status_code == 200
    assert "Ada</bdi>" in page.text
    assert (await client.get("/sign-in?next=/lists")).headers["location"] == "/lists"
    secret = client.cookies["session"]
    assert (await client.post("/sign-out")).headers["location"] == "/sign-in"
    assert "session" not in client.cookies
    assert (await client.get("/lists", headers={"cookie": f"session={secret}"})).status_code == 303


async def test_what_cannot_be_asked_gets_an_error(client: httpx.AsyncClient, ada: int) -> None:
    api = await client.get("/api/v1/saes")
    assert (api.status_code, api.headers["www-authenticate"]) == (401, "Bearer")
    fragment = await client.get("/lists", headers={"HX-Request": "true"})
    assert (fragment.status_code, fragment.headers["hx-retarget"]) == (401, "#notice")
    assert (await client.post("/lists", data={"name": "x"})).status_code == 401
    assert (await client.get("/lists", headers={"Authorization": "Bearer seesae_no"})).status_code == 401
    assert (await client.get("/healthz")).status_code == 200


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    client: httpx.AsyncClient, https: httpx.AsyncClient, ada: int
) -> None:
    for reached, is_https in ((client, False), (https, True)):
        cookie = (await send(reached)).headers["set-cookie"].lower()
        assert {"httponly", "samesite=lax", "path=/"} <= {part.strip() for part in cookie.split(";")}
        assert ("; secure" in cookie) == is_https
        assert ("strict-transport-security" in (await reached.get("/sign-in")).headers) == is_https


async def test_a_sign_in_begins_a_new_session_and_ends_the_one_before(client: httpx.AsyncClient, ada: int) -> None:
    """Session fixation: a secret that somebody planted is never the one that is signed in."""
    client.cookies.set("session", "planted", domain="localhost.local")
    await send(client)
    first = client.cookies["session"]
    assert first != "planted"
    await send(client)
    assert client.cookies["session"] not in (first, "planted")
    client.cookies.clear()
    for old in ("planted", first):
        assert (await client.get("/lists", headers={"cookie": f"session={old}"})).status_code == 303


async def test_the_database_holds_no_secret_that_opens_anything(
    client: httpx.AsyncClient, ada: int, engine: AsyncEngine
) -> None:
    await send(client)
    made = await client.post("/account/tokens", data={"name": "x", "scope": "write"})
    token = re.search(r"seesae_[\w-]+", made.text)
    assert token is not None
    invited = await client.post("/account/invitations", data={"role": "viewer"})
    link = re.search(r"/invitations/([\w-]+)\"", invited.text)
    assert link is not None
    async with engine.connect() as connection:
        tables = ("person", "sign_in_session", "api_token", "invitation", "rate_limit")
        rows = [str(row) for table in tables for row in await connection.execute(text(f"SELECT * FROM {table}"))]
    for secret in (client.cookies["session"], token[0], link[1], PASSWORD):
        assert not [row for row in rows if secret in row]
    assert "$argon2id$" in " ".join(rows)


async def test_an_unknown_name_cannot_be_told_from_a_wrong_password(
    client: httpx.AsyncClient, ada: int, engine: AsyncEngine
) -> None:
    """Account enumeration: same words, same work. Accounts without password, and disabled ones, answer alike."""
    await sign_in(engine, "grace")
    off = (await sign_in(engine, "off")).actor
    async with transaction(create_sessionmaker(engine)) as session:
        assert off.person_id is not None
        await accounts.disable_account(session, off.person_id)
    answers, seconds = [], {}
    for name in ("ada", "grace", "off", "nobody", "nul\0"):
        await send(client, name, "first")
        started = time.perf_counter()
        answer = await send(client, name, "wrong password")
        seconds[name] = time.perf_counter() - started
        answers.append((answer.status_code, re.sub(r'name="name" value="[^"]*"', "", answer.text)))
    assert answers[0][0] == 422
    assert len(set(answers[:4])) == 1
    assert min(seconds.values()) > max(seconds.values()) / 20  # argon2 takes most of it; a shortcut would be far below


async def test_guessing_is_stopped_by_name_even_when_the_guess_is_right(client: httpx.AsyncClient, ada: int) -> None:
    for name in ("ada", "nobody"):
        answers = await asyncio.gather(*(send(client, name, f"guess {number}") for number in range(12)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [422] * 10 + [429] * 2, name
    right = await send(client)
    assert right.status_code == 429
    assert 1 <= int(right.headers["retry-after"]) <= 90
    assert "session" not in client.cookies


async def test_a_right_password_forgets_the_wrong_ones(client: httpx.AsyncClient, ada: int) -> None:
    for _ in range(2):
        for number in range(9):
            assert (await send(client, password=f"guess {number}")).status_code == 422
        assert (await send(client)).status_code == 303


async def test_guessing_is_stopped_by_address(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await sign_in(engine, "ada")
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO rate_limit VALUES ('sign-in from 127.0.0.1', 60, now())"))
    assert (await send(client, "anybody", "x")).status_code == 429


ELSEWHERE = (
    "https://evil.example/",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "javascript:alert(1)",
    "evil.example",
    "http:evil.example",
    "/sign-out",
    "/" + "x" * 3000,
    "//[",
    "",
)


async def test_signing_in_never_leads_to_another_site(client: httpx.AsyncClient, ada: int) -> None:
    """Open redirect."""
    assert [safe_return(address) for address in ELSEWHERE] == ["/"] * len(ELSEWHERE)
    assert safe_return("/lists?before=3#x") == "/lists?before=3#x"
    assert (await send(client, next="//evil.example")).headers["location"] == "/"
    for address in ELSEWHERE:
        assert (await client.get("/sign-in", params={"next": address})).headers["location"] == "/"


async def test_another_site_can_neither_sign_in_nor_out_nor_write(client: httpx.AsyncClient, ada: int) -> None:
    await send(client)
    client.headers["Origin"] = "https://evil.example"
    posts = ("/sign-in", "/sign-out", "/lists", "/account/tokens", "/account/invitations", "/account/password")
    for path in posts:
        assert (await client.post(path, data={"name": "x"})).status_code == 403, path
    del client.headers["Origin"]
    assert (await client.get("/account")).status_code == 200


async def test_a_token_needs_no_origin_and_its_cookie_does_not_count(
    client: httpx.AsyncClient, engine: AsyncEngine, ada: int
) -> None:
    grace = await sign_in(engine, "grace", Role.viewer)
    await send(client)
    foreign = {"Origin": "https://evil.example"}
    refused = await client.post("/api/v1/lists", json={"name": "x"}, headers={**grace.headers, **foreign})
    assert refused.status_code == 403
    assert "role labeller" in refused.json()["detail"]
    kay = await sign_in(engine, "kay")
    made = await client.post("/api/v1/lists", json={"name": "x"}, headers={**kay.headers, **foreign})
    assert (made.status_code, made.json()["author"]) == (201, "kay")
    assert (await client.post("/account/tokens", data={"name": "x"}, headers=kay.headers)).status_code == 403


async def test_changes_are_limited_per_account(database_url: str, engine: AsyncEngine, tmp_path: Path) -> None:
    people = [await sign_in(engine, name) for name in ("ada", "grace")]
    async with site(Settings(database_url=database_url, home=tmp_path, writes_per_minute=3)) as client:
        for person in people:
            answers = [await client.post("/api/v1/lists", json={"name": "x"}, headers=person.headers) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
            assert (await client.get("/api/v1/lists", headers=person.headers)).status_code == 200


# --- the site without accounts, and open sites -------------------------------------------------------------------


async def test_without_accounts_nothing_asks_for_anything(client: httpx.AsyncClient) -> None:
    page = await client.get("/account")
    assert "seesae user add NAME --role admin" in page.text
    assert (await client.get("/sign-in")).headers["location"] == "/account"
    assert (await client.post("/lists", data={"name": "x"})).status_code == 303
    assert (await client.post("/account/invitations", data={"role": "admin"})).status_code == 403


async def test_a_site_that_others_reach_answers_nobody_without_accounts(
    https: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    assert (await https.get("/lists")).status_code == 303
    assert (await https.get("/api/v1/saes")).status_code == 401
    told = Settings(database_url=database_url, home=tmp_path, host="0.0.0.0", anyone_may_write=True)
    async with site(told) as client:
        assert (await client.post("/api/v1/lists", json={"name": "x"})).status_code == 201


async def test_anyone_may_read_where_the_setting_says_so(database_url: str, tmp_path: Path, ada: int) -> None:
    open_site = Settings(database_url=database_url, home=tmp_path, anyone_may_read=True)
    async with site(open_site) as client:
        page = await client.get("/lists")
        assert page.status_code == 200
        assert "/sign-in?next=/lists" in page.text
        assert (await client.get("/api/v1/lists")).status_code == 200
        assert (await client.post("/lists", data={"name": "x"})).status_code == 401
        assert (await client.get("/account")).status_code == 303
