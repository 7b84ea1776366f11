"""seesae user, and the refusal to start without accounts."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from app.cli import app
from app.cli.run_display import stderr_console
from app.errors import UserError
from app.services.actors import Role
from app.services.first_account import refuse_without_accounts
from app.settings import Settings, get_settings
from tests.people import sign_in
from tests.web.site import site


@pytest.fixture
def seesae(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `seesae user …`; return its exit status, and its result or what it says."""
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    monkeypatch.setenv("SEESAE_HOME", str(tmp_path))
    monkeypatch.setenv("SEESAE_BASE_URL", "https://lab.example")
    get_settings.cache_clear()

    def run(*arguments: str, input: str = "") -> tuple[int, Any]:
        stderr_console.cache_clear()
        result = CliRunner().invoke(app, ["user", *arguments, "--json"], input=input)
        return result.exit_code, json.loads(result.stdout.splitlines()[-1]) if result.exit_code == 0 else result.output

    yield run
    get_settings.cache_clear()


def test_accounts_are_made_listed_and_changed(seesae: Any) -> None:
    assert seesae("list") == (0, {"users": []})
    status, ada = seesae("add", " Ada ", "--role", "admin")
    assert (status, ada["name"], ada["role"]) == (0, "Ada", "admin")
    assert ada["link"].startswith("https://lab.example/invitations/")
    assert seesae("link", "ada")[1]["link"] != ada["link"]
    assert seesae("add", "ADA")[0] == 1
    assert seesae("add", "x", "--role", "king")[0] == 2
    assert "only admin" in seesae("disable", "ada")[1]
    assert "only admin" in seesae("role", "ada", "viewer")[1]
    assert seesae("add", "bot", "--token")[1]["token"].startswith("seesae_")
    assert seesae("add", "kay", "--role", "admin", "--password", input="a long password\n")[0] == 0
    assert "10 to 200" in seesae("add", "short", "--password", input="short\n")[1]
    assert seesae("role", "Ada", "reviewer")[1]["role"] == "reviewer"
    assert seesae("disable", "bot")[1]["disabled"]
    assert not seesae("enable", "bot")[1]["disabled"]
    assert "no account" in seesae("disable", "nobody")[1]
    users = seesae("list")[1]["users"]
    assert [(user["name"], user["role"], user["password"]) for user in users] == [
        ("Ada", "reviewer", False),
        ("bot", "labeller", False),
        ("kay", "admin", True),
    ]


async def test_an_invitation_makes_one_account(engine: AsyncEngine, database_url: str, tmp_path: Path) -> None:
    ada = await sign_in(engine, "ada", Role.admin)
    async with site(Settings(database_url=database_url, home=tmp_path)) as client:
        client.cookies.update(ada.cookies)
        made = await client.post("/account/invitations", data={"role": "labeller"})
        link = made.text.partition("http://localhost")[2].partition('"')[0]
        client.cookies.clear()
        assert "as a labeller" in (await client.get(link)).text
        new = {"name": "kay", "password": "a long password", "again": "a long password"}
        assert (await client.post(link, data={**new, "again": "another password"})).status_code == 422
        assert (await client.post(link, data={**new, "name": "ADA"})).status_code == 409
        assert (await client.post(link, data=new)).status_code == 303
        assert "kay</bdi>" in (await client.get("/account")).text
        client.cookies.clear()
        assert (await client.post(link, data={**new, "name": "eve"})).status_code == 404
        assert (await client.get("/invitations/nothing")).status_code == 404


async def test_a_site_that_others_reach_needs_an_account(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    local = Settings(database_url=database_url, home=tmp_path)
    shared = [{"host": "0.0.0.0"}, {"base_url": "https://lab.example"}]
    await refuse_without_accounts(local, database_url)
    for settings in shared:
        with pytest.raises(UserError, match=r"no accounts.*seesae user add"):
            await refuse_without_accounts(local.model_copy(update=settings), database_url)
        await refuse_without_accounts(local.model_copy(update={**settings, "anyone_may_write": True}), database_url)
    await sign_in(engine, "ada")
    for settings in shared:
        await refuse_without_accounts(local.model_copy(update=settings), database_url)


async def test_what_a_name_wrote_is_given_to_an_account_with_its_history(
    engine: AsyncEngine, database_url: str, tmp_path: Path, made: Any
) -> None:
    url = f"/api/v1/saes/{made.sae.slug}/features"
    async with site(Settings(database_url=database_url, home=tmp_path, author="ada l")) as client:
        for feature in (1, 2):
            await client.put(f"{url}/{feature}/labels/mine", json={"explanation": f"typed {feature}"})
        await client.post("/api/v1/lists", json={"name": "Rivers"})
        ada, admin = await sign_in(engine, "ada"), await sign_in(engine, "boss", Role.admin)
        await client.put(f"{url}/2/labels/mine", json={"explanation": "hers"}, headers=ada.headers)
        client.cookies.update(admin.cookies)
        page = (await client.get("/account")).text
        number = page.partition('name="name" value="')[2].partition('"')[0]
        done = await client.post("/account/claims", data={"name": number, "account": str(ada.actor.person_id)})
        assert "ada now has 1 label of ada l and 1 other thing. 1 label stayed" in done.text
        [label] = (await client.get(f"{url}/1/labels")).json()["labels"]
        assert (label["author"], label["verified"], label["version"]) == ("ada", True, 2)
        history = (await client.get(f"/api/v1/labels/{label['id']}/history")).json()
        assert "claimed" in httpx.Response(200, json=history).text
        both = (await client.get(f"{url}/2/labels")).json()["labels"]
        assert (await client.get(f"/saes/{made.sae.slug}/features/2")).text.count(">unverified<") == 1
        assert "unverified" not in (await client.get(f"/saes/{made.sae.slug}/features/1")).text
        assert sorted((one["author"], one["verified"]) for one in both) == [("ada", True), ("ada l", False)]
