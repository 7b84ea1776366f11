"""Who may do what: every route, asked for by nobody, by a token that may read, and by each role.

The table is what the site promises, kept apart from `app/web/permissions.py`. A route that is missing from it fails the
first test, and one that lets in somebody else fails a later one.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.main import create_app
from app.services.accounts import create_token
from app.services.actors import Role
from app.services.lists import ListText, NewItem, create_list
from app.settings import Settings
from app.web.permissions import check_routes, routes_of
from tests.factories import Synthetic
from tests.people import SignedIn, sign_in
from tests.web.site import app_of, site

TABLE = {
    "anyone": """
        GET /api/docs
        GET /healthz
        GET /invitations/{secret}
        POST /invitations/{secret}
        GET /metrics
        GET /readyz
        GET /sign-in
        POST /sign-in
        GET /sign-in/provider
        GET /sign-in/provider/return
        POST /sign-out
    """,
    "viewer": """
        GET /
        GET /account
        POST /account/password
        POST /account/sessions/end
        POST /account/sessions/{id}/end
        POST /account/tokens
        POST /account/tokens/{id}/revoke
        GET /activity
        GET /api/v1/activity
        GET /api/v1/compare
        GET /api/v1/leaderboard
        GET /api/v1/corpora
        GET /api/v1/audits
        GET /api/v1/audits/{id}
        GET /api/v1/audits/{id}/raw
        GET /api/v1/audits/{id}/report.html
        GET /api/v1/textsets
        GET /api/v1/textsets/{name}
        GET /api/v1/textsets/{name}/texts
        GET /api/v1/textsets/{name}/download
        GET /api/v1/edits
        GET /api/v1/edits/{name}
        GET /api/v1/edits/{name}/download
        GET /api/v1/labels/{id}/history
        GET /api/v1/labelsets
        GET /api/v1/labelsets/{id}
        GET /api/v1/labelsets/{id}/agreement
        GET /api/v1/labelsets/{id}/collisions
        GET /api/v1/labelsets/{id}/decisions
        GET /api/v1/labelsets/{id}/disagreements
        GET /api/v1/labelsets/{id}/features/{feature}/draft
        GET /api/v1/labelsets/{id}/progress
        GET /api/v1/labelsets/{id}/tests
        GET /api/v1/lists
        GET /api/v1/lists/{id}
        GET /api/v1/lists/{id}/export
        GET /api/v1/models
        GET /api/v1/runs
        GET /api/v1/runs/kinds
        GET /api/v1/runs/{id}
        GET /api/v1/saes
        GET /api/v1/saes/{sae}
        POST /api/v1/saes/{sae}/attribute
        GET /api/v1/saes/{sae}/dictionary
        GET /api/v1/saes/{sae}/dictionary/export
        GET /api/v1/saes/{sae}/features
        POST /api/v1/saes/{sae}/features/by-example
        GET /api/v1/saes/{sae}/features/export
        GET /api/v1/saes/{sae}/features/{index}
        GET /api/v1/saes/{sae}/features/{index}/comments
        GET /api/v1/saes/{sae}/features/{index}/counterparts
        GET /api/v1/saes/{sae}/features/{index}/examples
        GET /api/v1/saes/{sae}/features/{index}/labels
        GET /api/v1/saes/{sae}/features/{index}/suggestions
        GET /api/v1/saes/{sae}/features/{index}/textsets/{name}
        POST /api/v1/saes/{sae}/generate
        GET /api/v1/saes/{sae}/labels/export
        GET /api/v1/saes/{sae}/labels/history
        GET /api/v1/saes/{sae}/map
        POST /api/v1/saes/{sae}/probe
        POST /api/v1/saes/{sae}/sweep
        GET /api/v1/saes/{sae}/text-comparisons
        GET /api/v1/tests/{id}
        POST /v1/chat/completions
        POST /v1/completions
        GET /v1/models
        GET /v1/models/{model:path}
        GET /api/v1/text-comparisons/{id}
        GET /api/v1/text-comparisons/{id}/export
        GET /compare
        GET /corpora/{name:path}/delete
        GET /audits
        GET /audits/{id}
        GET /audits/{id}/delete
        GET /audits/{id}/report.html
        GET /audits/new
        GET /textsets
        GET /textsets/{name}
        GET /edits
        GET /edits/{name}
        GET /edits/{name}/delete
        GET /textsets/new
        GET /textsets/{name}/delete
        GET /label
        GET /labelsets/new
        GET /labelsets/{id}
        GET /labelsets/{id}/adjudicate
        GET /labelsets/{id}/adjudicate/next
        GET /labelsets/{id}/adjudicate/{feature}
        GET /labelsets/{id}/agreement
        GET /labelsets/{id}/edit
        GET /labelsets/{id}/events
        GET /labelsets/{id}/label
        GET /labelsets/{id}/tests
        GET /api/v1/monitors
        GET /api/v1/monitors/{id}
        GET /api/v1/monitors/{id}/alerts
        POST /api/v1/monitors/{id}/check
        GET /api/v1/monitors/{id}/download
        GET /lists
        GET /monitors
        GET /monitors/new
        GET /monitors/{id}
        GET /monitors/{id}/events
        GET /monitors/{id}/new
        GET /monitors/{id}/candidates
        POST /monitors/{id}/check
        GET /monitors/{id}/delete
        GET /lists/{id}
        GET /lists/{id}/delete
        GET /lists/{id}/remove
        GET /models
        GET /models/{name:path}/delete
        GET /runs
        GET /runs/new
        GET /runs/new/{kind}
        GET /runs/{run_id}
        GET /runs/{run_id}/cancel
        GET /runs/{run_id}/events
        GET /runs/{run_id}/retry
        GET /saes/{sae}
        GET /saes/{sae}/attribute
        POST /saes/{sae}/attribute
        GET /saes/{sae}/compare-texts
        GET /saes/{sae}/compare-texts/{id}
        GET /saes/{sae}/compare-texts/{id}/features/{feature}
        GET /saes/{sae}/delete
        GET /saes/{sae}/dictionary
        GET /saes/{sae}/features
        GET /saes/{sae}/features/by-example
        POST /saes/{sae}/features/by-example
        GET /saes/{sae}/features/random
        GET /saes/{sae}/features/{index}
        GET /saes/{sae}/features/{index}/comments
        GET /saes/{sae}/features/{index}/drawn
        GET /saes/{sae}/features/{index}/events
        GET /saes/{sae}/features/{index}/examples/{sequence}
        GET /saes/{sae}/features/{index}/labels
        GET /saes/{sae}/features/{index}/texts
        POST /saes/{sae}/features/{index}/try
        GET /saes/{sae}/index/delete
        GET /saes/{sae}/labels
        GET /saes/{sae}/map
        GET /saes/{sae}/probe
        POST /saes/{sae}/probe
        GET /saes/{sae}/probe/saved/{id}
        GET /saes/{sae}/probe/saved/{id}/delete
        GET /saes/{sae}/probe/texts
        POST /saes/{sae}/probe/texts
        POST /saes/{sae}/probe/texts/{format}
        GET /saes/{sae}/steer
        POST /saes/{sae}/steer
        GET /saes/{sae}/steer/marks
        GET /tests/{id}
    """,
    "labeller": """
        GET /api/v1/webhooks
        GET /api/v1/webhooks/{id}/deliveries
        POST /api/v1/webhooks
        DELETE /api/v1/webhooks/{id}
        GET /webhooks
        POST /webhooks
        GET /webhooks/{id}
        POST /webhooks/{id}/delete
        POST /api/v1/monitors
        DELETE /api/v1/monitors/{id}
        PUT /api/v1/monitors/{id}
        POST /monitors
        POST /monitors/{id}
        POST /monitors/{id}/delete
        DELETE /api/v1/comments/{id}
        DELETE /api/v1/audits/{id}
        POST /audits/{id}/delete
        POST /api/v1/textsets
        DELETE /api/v1/textsets/{name}
        POST /api/v1/edits
        DELETE /api/v1/edits/{name}
        PUT /api/v1/edits/{name}
        POST /api/v1/labels/{id}/undo
        PUT /api/v1/labels/{id}/vote
        PUT /api/v1/labelsets/{id}/features/{feature}/draft
        POST /api/v1/labelsets/{id}/next
        POST /api/v1/labelsets/{id}/skip
        POST /api/v1/labelsets/{id}/tests
        POST /api/v1/labelsets/{id}/undo
        POST /api/v1/lists
        DELETE /api/v1/lists/{id}
        PUT /api/v1/lists/{id}
        POST /api/v1/saes/{sae}/features/{index}/comments
        PUT /api/v1/saes/{sae}/features/{index}/labels/mine
        PUT /api/v1/saes/{sae}/features/{index}/labels/mine/draft
        POST /api/v1/tests/{id}/answers
        POST /textsets
        POST /textsets/{name}/delete
        POST /edits
        POST /edits/{name}
        POST /edits/{name}/delete
        POST /labels/{id}/discard
        POST /labels/{id}/undo
        POST /labelsets/{id}/adjudicate/{feature}/votes
        POST /labelsets/{id}/label
        POST /labelsets/{id}/next
        POST /labelsets/{id}/skip
        POST /labelsets/{id}/tests
        POST /labelsets/{id}/undo
        POST /lists
        POST /lists/{id}
        POST /lists/{id}/delete
        POST /lists/{id}/items
        POST /lists/{id}/move
        POST /lists/{id}/note
        POST /lists/{id}/remove
        POST /saes/{sae}/features/{index}/comments
        POST /saes/{sae}/features/{index}/comments/{id}/delete
        POST /saes/{sae}/features/{index}/labels
        POST /saes/{sae}/features/{index}/lists
        POST /saes/{sae}/probe/saved
        POST /saes/{sae}/probe/saved/{id}/delete
        POST /tests/{id}
    """,
    "reviewer": """
        POST /api/v1/monitors/{id}/alerts/{alert}/acknowledge
        POST /monitors/{id}/acknowledge
        POST /monitors/{id}/alerts/{alert}
        POST /api/v1/labelsets
        PUT /api/v1/labelsets/{id}
        POST /api/v1/labelsets/{id}/decisions
        POST /labelsets
        POST /labelsets/{id}
        POST /labelsets/{id}/adjudicate/{feature}
        POST /labelsets/{id}/closed
    """,
    "admin": """
        POST /api/v1/monitors/{id}/scan
        POST /account/claims
        POST /account/invitations
        POST /account/invitations/{id}/revoke
        POST /account/people/{id}/disable
        POST /account/people/{id}/enable
        POST /account/people/{id}/link
        POST /account/people/{id}/role
        DELETE /api/v1/corpora/{name:path}
        POST /api/v1/audits
        POST /audits
        POST /api/v1/edits/{name}/measure
        DELETE /api/v1/models/{name:path}
        POST /api/v1/runs
        POST /api/v1/runs/{id}/cancel
        POST /api/v1/runs/{id}/retry
        DELETE /api/v1/saes/{sae}
        POST /api/v1/saes/{sae}/compare-texts
        DELETE /api/v1/text-comparisons/{id}
        DELETE /api/v1/saes/{sae}/index
        POST /api/v1/saes/{sae}/labels/import
        POST /api/v1/saes/{sae}/suggestions
        POST /corpora/{name:path}/delete
        POST /models/{name:path}/delete
        POST /runs/new/{kind}
        POST /textsets/built-in
        POST /runs/{run_id}/cancel
        POST /runs/{run_id}/retry
        POST /saes/{sae}/compare-texts
        POST /saes/{sae}/delete
        POST /saes/{sae}/index/delete
        POST /saes/{sae}/labels
    """,
}
"""The least role that may call each route. Reading needs an account, unless a setting says otherwise."""

LEAST = {line.strip(): role for role, lines in TABLE.items() for line in lines.strip().splitlines()}
ROLES = ("viewer", "labeller", "reviewer", "admin")
WHO = ("nobody", "read token", *ROLES)
WITH_BROWSER = "/account/"
"""Below it, a token changes nothing, whoever's it is."""
DENIED = re.compile("needs the role|cannot change accounts")
OPEN = {"GET /api/openapi.json", "GET /static/icon.svg"}
"""Addresses outside of the routes: they say nothing of what the site holds."""


def rank(who: str) -> int:
    return {"nobody": 0, "read token": 1}.get(who) or (ROLES.index(who) + 1 if who in ROLES else 0)


@pytest.fixture
async def people(engine: AsyncEngine) -> dict[str, dict[str, str]]:
    """Headers with which each of `WHO` asks: the roles as browsers do."""
    headers: dict[str, dict[str, str]] = {"nobody": {}}
    for role in ROLES:
        signed_in = await sign_in(engine, role, Role[role])
        headers[role] = {"Cookie": f"session={signed_in.cookies['session']}"}
        person_id = signed_in.actor.person_id
    assert person_id is not None
    async with transaction(create_sessionmaker(engine)) as session:
        token = await create_token(session, person_id, "an admin's, to read", scope="read")
    headers["read token"] = {"Authorization": f"Bearer {token}"}
    return headers


@pytest.fixture
async def open_site(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A site that lets people read who have not signed in, and takes changes without limit."""
    settings = Settings(database_url=database_url, home=tmp_path, anyone_may_read=True, writes_per_minute=1_000_000)
    async with site(settings) as client:
        yield client


def address(path: str) -> str:
    """An address of the route with nothing at it, so that no request changes what the next one finds."""
    return re.sub(r"{(\w+)(:path)?}", lambda name: "jsonl" if name[1] == "format" else "2147483647", path)


async def ask(client: httpx.AsyncClient, route: str, headers: dict[str, str]) -> httpx.Response:
    method, path = route.split(" ")
    body = {"json": {}} if path.startswith("/api/") and method in ("POST", "PUT") else {}
    return await client.request(method, address(path), headers=headers, **body)


def leads_to_sign_in(answer: httpx.Response) -> bool:
    return answer.status_code == 303 and re.fullmatch(r"/sign-in(\?next=.*)?", answer.headers["location"]) is not None


def test_the_table_names_every_route_and_no_other() -> None:
    app = create_app(Settings(database_url="postgresql://unused"))
    routes = {f"{method} {route.path}" for route in routes_of(app.routes) for method in route.methods or ()}
    assert set(LEAST) == routes, "say in TABLE who may call a new route, and take out one that is gone"
    assert sum(len(lines.strip().splitlines()) for lines in TABLE.values()) == len(LEAST)


def test_the_site_does_not_start_with_a_route_that_nobody_thought_of() -> None:
    app = create_app(Settings(database_url="postgresql://unused"))
    app.post("/forgotten")(lambda: None)
    with pytest.raises(LookupError, match="POST /forgotten"):
        check_routes(app.routes)


@pytest.mark.slow
@pytest.mark.parametrize("who", WHO)
async def test_every_route_lets_in_its_role_and_those_above(
    client: httpx.AsyncClient, people: dict[str, dict[str, str]], who: str
) -> None:
    app_of(client).state.settings = app_of(client).state.settings.model_copy(update={"writes_per_minute": 1_000_000})
    wrong = []
    for route, least in sorted(LEAST.items(), key=lambda item: item[0] == "POST /sign-out"):  # ends the session
        answer = await ask(client, route, people[who])
        allowed = least == "anyone" or (who != "nobody" and rank(who) >= rank(least))
        allowed &= not (who == "read token" and WITH_BROWSER in route and route.startswith("POST"))
        to_sign_in = route.startswith("GET") and leads_to_sign_in(answer)
        if who == "nobody":
            page = route.startswith("GET") and not route.startswith(("GET /api/", "GET /v1/"))
            denied = to_sign_in if page else answer.status_code == 401
        else:
            denied = answer.status_code == 403 and DENIED.search(answer.text) is not None
        if denied == allowed or answer.status_code >= 500 or (allowed and (answer.status_code == 401 or to_sign_in)):
            wrong.append((route, answer.status_code, "should be let in" if allowed else "should be refused"))
    assert wrong == []


@pytest.mark.slow
async def test_where_anyone_may_read_they_read_what_viewers_do_and_no_more(
    open_site: httpx.AsyncClient, people: object
) -> None:
    for route, least in LEAST.items():
        answer = await ask(open_site, route, {})
        reads = least == "viewer" and route.startswith("GET") and route != "GET /account"
        refused = answer.status_code == 401 or (route.startswith("GET") and leads_to_sign_in(answer))
        assert refused == (least != "anyone" and not reads), (route, answer.status_code)


async def test_the_addresses_outside_of_the_routes_are_harmless(
    client: httpx.AsyncClient, people: object, made: Synthetic
) -> None:
    for one in OPEN:
        answer = await client.get(one.split(" ")[1])
        assert answer.status_code == 200
        assert made.sae.slug not in answer.text


# --- what one person made, and the others ------------------------------------------------------------------------


async def test_what_a_person_made_is_theirs_and_a_reviewers(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic
) -> None:
    """Whoever has the link reads a list; its owner and reviewers change it, and only they see the buttons."""
    sae = made.sae.slug
    ada, kay, viewer, reviewer = [
        await sign_in(engine, name, role)
        for name, role in (("ada", Role.labeller), ("kay", Role.labeller), ("vi", Role.viewer), ("rev", Role.reviewer))
    ]
    async with transaction(create_sessionmaker(engine)) as session:
        kept = await create_list(session, ListText("Rivers"), [NewItem(sae, 1), NewItem(sae, 2)], actor=ada.actor)
    url = f"/lists/{kept.public_id}"
    item = {"sae": sae, "feature": 1, "version": 1}
    changes = [
        ("POST", url, {"name": "Lakes", "version": 1}),
        ("POST", f"{url}/items", {"sae": sae, "feature": 3}),
        ("POST", f"{url}/note", {**item, "note": "x"}),
        ("POST", f"{url}/move", {**item, "direction": "down"}),
        ("POST", f"{url}/remove", item),
        ("POST", f"{url}/delete", {"version": 1}),
        ("GET", f"{url}/delete", {}),
        ("PUT", f"/api/v1{url}", {"name": "Lakes"}),
        ("DELETE", f"/api/v1{url}", {}),
    ]

    async def change(who: SignedIn, method: str, path: str, data: dict[str, object]) -> httpx.Response:
        body = {"json": data} if path.startswith("/api/") and data else {"data": data}
        headers = {**who.headers, "If-Match": "1"}
        return await client.request(method, path, headers=headers, **body)  # type: ignore[arg-type]

    for method, path, data in changes:
        answer = await change(kay, method, path, data)
        assert answer.status_code == 403, (method, path)
        assert "ada’s" in answer.text
    added = await client.post(f"/saes/{sae}/features/3/lists", headers=kay.headers, data={"list": kept.public_id})
    assert added.status_code == 403
    untouched = (await client.get(f"/api/v1{url}", headers=kay.headers)).json()
    assert (untouched["name"], len(untouched["items"]), untouched["version"]) == ("Rivers", 2, 1)

    for who, may in ((ada, True), (kay, False), (viewer, False), (reviewer, True)):
        page = (await client.get(url, headers=who.headers)).text
        feature = (await client.get(f"/saes/{sae}/features/3", headers=who.headers)).text
        assert [mark in page for mark in (f"{url}/delete", f"{url}/move", 'action="/lists/')] == [may] * 3
        assert (f'value="{kept.public_id}"' in feature) == may
        assert ("Add to list" in feature) == (who is not viewer)
    assert (await change(reviewer, *changes[1])).status_code == 303
    assert (await change(ada, *changes[2])).status_code == 303
    assert (await client.delete(f"/api/v1{url}", headers=ada.headers)).status_code == 204
