"""Parts of a feature's page that are rendered once for all readers: they change no byte, and tell nobody's secret."""

import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.services.actors import Role
from app.web.fragments import Fragments
from tests.factories import Synthetic, add_label
from tests.people import sign_in
from tests.web.html import parse
from tests.web.site import app_of

SECRET = "names of submarines"


def with_neighbours(made: Synthetic) -> int:
    """Return a feature that has neighbours."""
    return next(row.number for row in made.features.rows() if row.near and row.coactive)


async def page_of(client: httpx.AsyncClient, address: str, headers: Mapping[str, str] | None = None) -> str:
    response = await client.get(address, headers=headers)
    assert response.status_code == 200, response.text
    return re.sub(r'name="key" value="[^"]+"', "", response.text)  # of a form, new each time


async def page_without(client: httpx.AsyncClient, address: str, headers: Mapping[str, str] | None = None) -> str:
    """Return the page as it is where nothing is kept."""
    state = app_of(client).state
    kept, state.fragments = state.fragments, Fragments(0)
    try:
        return await page_of(client, address, headers)
    finally:
        state.fragments = kept


async def test_pages_are_the_same_bytes_with_and_without_kept_parts(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    await add_label(session, made.sae, 2, "cells & <tissue>")
    await session.commit()
    numbers = [row.number for row in made.features.rows()][:12]
    first = [await page_of(client, f"{base}/features/{number}") for number in numbers]
    again = [await page_of(client, f"{base}/features/{number}") for number in numbers]
    assert first == again == [await page_without(client, f"{base}/features/{number}") for number in numbers]
    assert app_of(client).state.fragments.bytes > 0


async def test_kept_parts_are_not_asked_for_again(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    address = f"{base}/features/{with_neighbours(made)}"
    asked: list[str] = []

    @event.listens_for(app_of(client).state.engine.sync_engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    await page_of(client, address)
    assert any("FROM example_band" in statement for statement in asked)
    asked.clear()
    await page_of(client, address)
    assert not any("FROM example_band" in statement for statement in asked)
    assert len(asked) <= 6


async def test_a_neighbours_new_label_is_on_the_page_at_once(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    number = with_neighbours(made)
    other = next(row.near[0] for row in made.features.rows() if row.number == number)
    address = f"{base}/features/{number}"
    assert SECRET not in await page_of(client, address)
    await add_label(session, made.sae, other, SECRET)
    await session.commit()
    page = await page_of(client, address)
    assert SECRET in [name.text for name in parse(page).all("span", cls="neighbour-name")]
    assert page == await page_without(client, address)


@pytest.mark.parametrize("first", ["author", "reviewer"])
async def test_what_one_reader_may_see_is_in_no_part_of_anothers_page(
    client: httpx.AsyncClient, made: Synthetic, base: str, engine: AsyncEngine, first: str
) -> None:
    """A label of a blind set, and a draft, on a feature and its neighbours: whoever sees them opens the page first."""
    author, other, reviewer = [
        await sign_in(engine, name, role)
        for name, role in (("Ada", Role.labeller), ("Grace", Role.labeller), ("Kay", Role.reviewer))
    ]
    body = {"sae": made.sae.slug, "name": "blind", "blind": True, "needed": 2}
    assert (await client.post("/api/v1/labelsets", json=body, headers=reviewer.headers)).status_code == 201
    number = with_neighbours(made)
    row = next(row for row in made.features.rows() if row.number == number)
    active = {each.number for each in made.features.rows() if each.max > 0}
    features = {number, row.near[0], row.coactive[0]} & active
    for feature in features:
        mine = f"/api/v1{base}/features/{feature}/labels/mine"
        hidden = {"explanation": SECRET, "set": "blind"}
        assert (await client.put(mine, json=hidden, headers=author.headers)).status_code in (200, 201)
        draft = {"explanation": f"a draft about {SECRET}", "status": "draft"}
        assert (await client.put(mine, json=draft, headers=author.headers)).status_code in (200, 201)

    address = f"{base}/features/{number}"
    known = await page_of(client, address, (author if first == "author" else reviewer).headers)
    assert SECRET in known
    assert SECRET not in await page_of(client, address, other.headers)
    for person in (author, other, reviewer):
        assert await page_of(client, address, person.headers) == await page_without(client, address, person.headers)
