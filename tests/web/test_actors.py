"""One place says who acts: no route looks at the setting, the cookie or a form's field itself.

Routes that sign people in and out call `set_session` and `session_secret` of that place.
"""

import ast
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import app.services
import app.web
from tests.factories import Synthetic
from tests.people import sign_in

WEB, SERVICES = Path(app.web.__file__).parent, Path(app.services.__file__).parent
ROUTES = [path for path in sorted(WEB.rglob("*.py")) if path != WEB / "dependencies.py"]


def attributes(path: Path) -> set[str]:
    """Attributes that a module reads, those of settings as `settings.name`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            of_settings = ast.unparse(node.value).rpartition(".")[2].strip("_") == "settings"
            found.add(f"settings.{node.attr}" if of_settings else node.attr)
    return found


@pytest.mark.parametrize("path", ROUTES, ids=lambda path: str(path.relative_to(WEB)))
def test_routes_take_the_actor_from_the_dependency(path: Path) -> None:
    assert not attributes(path) & {"settings.author", "cookies", "set_cookie", "delete_cookie"}


def test_the_check_finds_a_direct_access() -> None:
    assert {"cookies", "set_cookie"} <= attributes(WEB / "dependencies.py")
    assert [path.name for path in sorted(SERVICES.glob("*.py")) if "settings.author" in attributes(path)] == [
        "actors.py"
    ]


async def test_where_nobody_has_an_account_the_local_user_acts(client: httpx.AsyncClient, made: Synthetic) -> None:
    url = f"/saes/{made.sae.slug}/features"
    await client.post(f"{url}/1/labels", data={"explanation": "x", "author": "grace"})
    await client.put(f"/api/v1{url}/2/labels/mine", json={"explanation": "x"})
    await client.put(f"/api/v1{url}/3/labels/mine", json={"explanation": "x", "author": "kay"})
    pages = [(await client.get(f"/api/v1{url}/{feature}/labels")).json() for feature in (1, 2, 3)]
    assert [page["labels"][0]["author"] for page in pages] == ["ada", "ada", "kay"]
    assert not any(page["labels"][0]["verified"] for page in pages)


async def test_where_somebody_has_an_account_people_sign_in(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine
) -> None:
    person = await sign_in(engine, "Grace")
    mine = f"/api/v1/saes/{made.sae.slug}/features/1/labels/mine"
    assert (await client.put(mine, json={"explanation": "x"})).status_code == 401
    assert (await client.get("/")).status_code in (303, 401)
    assert (
        await client.put(mine, json={"explanation": "x", "author": "ada"}, headers=person.headers)
    ).status_code == 403
    label = (await client.put(mine, json={"explanation": "x"}, headers=person.headers)).json()
    assert (label["author"], label["verified"]) == ("Grace", True)
    client.cookies.update(person.cookies)
    assert (await client.get("/")).status_code == 200
