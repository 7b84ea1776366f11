import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.main import create_app
from app.services.accounts import disable_account
from app.services.actors import Role
from app.settings import Settings
from app.tables import Label, LabelLease, LabelRevision
from tests.e2e.conftest import serving
from tests.factories import Synthetic, add_label
from tests.people import SignedIn, sign_in
from tests.web.api.problems import problem

SETS = "/api/v1/labelsets"


async def make(client: httpx.AsyncClient, made: Synthetic, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """Make a set of the SAE, and return it as the API does."""
    response = await client.post(SETS, json={"sae": made.sae.slug, "name": "first pass"} | body, headers=headers)
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"{SETS}/{response.json()['id']}"
    return response.json()


async def test_a_set_has_the_features_of_its_scope(client: httpx.AsyncClient, made: Synthetic) -> None:
    listed = (
        await client.post("/api/v1/lists", json={"name": "l", "items": [{"sae": made.sae.slug, "feature": 4}]})
    ).json()
    active = {row.number for row in made.features.rows() if row.max > 0}
    scopes: list[tuple[dict[str, Any], int]] = [
        ({}, len(active)),
        ({"features": [3, 1, 3]}, 2),
        ({"list": listed["id"]}, 1),
        ({"filter": {"label": "unlabelled", "max_density": "1"}}, made.sae.d_sae),
        ({"filter": {"label": "unlabelled"}, "sample": 5, "seed": 7}, 5),
    ]
    for number, (scope, features) in enumerate(scopes):
        found = await make(client, made, name=f"set {number}", scope=scope)
        assert (found["features"], found["done"], found["labels"], found["blind"]) == (features, 0, 0, False)
        assert found["scope"]
    names = [found["name"] for found in (await client.get(SETS, params={"sae": made.sae.slug})).json()["labelsets"]]
    assert names == ["set 4", "set 3", "set 2", "set 1", "set 0"]

    refused: list[tuple[dict[str, Any], int, str]] = [
        ({"features": [made.sae.d_sae]}, 422, f"no feature {made.sae.d_sae}"),
        ({"features": []}, 422, "No feature"),
        ({"filter": {"q": "zzzzzz"}}, 422, "No feature"),
        ({"filter": {"colour": "red"}}, 422, "cannot be filtered by “colour”"),
        ({"filter": {"min_density": "many"}}, 422, "is a number"),
        ({"filter": {}, "features": [1]}, 422, "one place"),
        ({"list": "nothing"}, 422, "no such list"),
        ({"sample": 99}, 422, "cannot be drawn"),
    ]
    for scope, status, said in refused:
        response = await client.post(SETS, json={"sae": made.sae.slug, "name": "other", "scope": scope})
        assert said in problem(response, status)["detail"]
    again = await client.post(SETS, json={"sae": made.sae.slug, "name": "set 0"})
    assert "already" in problem(again, 409)["detail"]
    problem(await client.post(SETS, json={"sae": made.sae.slug, "name": "default"}), 422)
    problem(await client.post(SETS, json={"sae": "nothing", "name": "x"}), 404)
    problem(await client.get(f"{SETS}/999"), 404)


async def test_a_guideline_has_versions_and_a_stale_one_is_refused(client: httpx.AsyncClient, made: Synthetic) -> None:
    found = await make(client, made, guideline={"text": "Be *short*.", "categories": ["syntax", " topic "]})
    address = f"{SETS}/{found['id']}"
    assert found["guideline"]["categories"] == ["syntax", "topic"]
    mine = f"/api/v1/saes/{made.sae.slug}/features/5/labels/mine"
    in_set = {"set": "first pass"}
    wrong = await client.put(mine, json={"explanation": "x", "categories": ["other"], **in_set})
    assert "not a category of this set" in problem(wrong, 422)["detail"]
    assert (await client.put(mine, json={"categories": ["topic"], **in_set})).status_code == 200

    changed = await client.put(
        address, json={"guideline": {"text": "Be exact.", "categories": ["syntax"]}}, headers={"If-Match": "1"}
    )
    assert [version["version"] for version in changed.json()["guidelines"]] == [2, 1]
    stale = await client.put(address, json={"guideline": {"text": "Mine."}}, headers={"If-Match": "1"})
    assert "version 2 by now" in problem(stale, 409)["detail"]
    kept = await client.put(
        mine, json={"explanation": "y", "categories": ["topic"], **in_set}, headers={"If-Match": "1"}
    )
    assert kept.status_code == 200  # it was chosen while the category was there
    history = (await client.get(f"/api/v1/labels/{kept.json()['id']}/history")).json()["history"]
    assert [revision["guideline_version"] for revision in history] == [2, 1]

    rules = (await client.put(address, json={"needed": 3, "order": "fewest", "name": "second"})).json()
    assert (rules["needed"], rules["order"], rules["name"], rules["guideline_version"]) == (3, "fewest", "second", 2)
    outside = await make(client, made, name="few", scope={"features": [1]})
    refused = await client.put(mine, json={"explanation": "z", "set": outside["name"]})
    assert "not about feature 5" in problem(refused, 422)["detail"]


async def test_a_closed_set_takes_no_label_and_shows_those_it_withheld(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine
) -> None:
    ada, grace, reviewer = [
        await sign_in(engine, name, role)
        for name, role in (("Ada", Role.labeller), ("Grace", Role.labeller), ("Kay", Role.reviewer))
    ]
    problem(await client.post(SETS, json={"sae": made.sae.slug, "name": "x"}, headers=ada.headers), 403)
    found = await make(client, made, reviewer.headers, blind=True, needed=2)
    base = f"/api/v1/saes/{made.sae.slug}"
    page = f"/saes/{made.sae.slug}/features/5"
    secret = "names of submarines"
    body = {"explanation": secret, "set": "first pass", "categories": ["nautical"]}
    label = (await client.put(f"{base}/features/5/labels/mine", json=body, headers=ada.headers)).json()

    everywhere = (
        f"{base}/features/5/labels",
        f"{base}/features/5",
        f"{base}/features?q=submarines",
        f"{base}/features?category=nautical",
        f"{base}/features?author=Ada",
        f"{base}/features?label=labelled",
        f"{base}/labels/export?format=jsonl",
        f"{base}/features/export?format=jsonl",
        page,
        f"/saes/{made.sae.slug}/features?q=submarines",
        f"/saes/{made.sae.slug}",
        f"/labelsets/{found['id']}",
        f"/labelsets/{found['id']}/label?feature=5",
        f"{SETS}/{found['id']}",
    )

    async def seen_by(person: SignedIn, **headers: str) -> set[str]:
        seen = set()
        for address in everywhere:
            response = await client.get(address, headers=person.headers | headers)
            assert response.status_code in (200, 304), response.text
            if secret in response.text or '"author": "Ada"' in response.text:
                seen.add(address)
        return seen

    on_feature = {f"{base}/features/5/labels", f"{base}/features/5", page, f"/labelsets/{found['id']}/label?feature=5"}
    assert await seen_by(grace) == set()
    assert await seen_by(ada) == on_feature
    assert await seen_by(reviewer) == on_feature
    problem(await client.get(f"/api/v1/labels/{label['id']}/history", headers=grace.headers), 404)
    assert (await client.get(f"{base}/features?label=labelled", headers=grace.headers)).json()["total"] == 0
    etag = (await client.get(page, headers=ada.headers)).headers["etag"]
    assert (await client.get(page, headers=grace.headers | {"If-None-Match": etag})).status_code == 200

    own = await client.put(
        f"{base}/features/5/labels/mine", json={"cant_tell": True, "set": "first pass"}, headers=grace.headers
    )
    assert own.status_code == 200
    assert await seen_by(grace) == on_feature

    closed = await client.put(f"{SETS}/{found['id']}", json={"closed": True}, headers=reviewer.headers)
    assert closed.json()["closed_at"]
    assert {f"{base}/labels/export?format=jsonl", f"{base}/features?q=submarines"} < await seen_by(grace)
    late = await client.put(f"{base}/features/6/labels/mine", json=body, headers=ada.headers)
    assert "is closed" in problem(late, 409)["detail"]
    problem(await client.post(f"{SETS}/{found['id']}/next", headers=ada.headers), 409)
    await client.put(f"{SETS}/{found['id']}", json={"closed": False}, headers=reviewer.headers)
    assert f"{base}/labels/export?format=jsonl" not in await seen_by(grace)


@pytest.mark.slow
async def test_eight_people_at_once_never_share_a_feature(
    settings: Settings, made: Synthetic, engine: AsyncEngine, session: AsyncSession
) -> None:
    people = [await sign_in(engine, f"person {number}") for number in range(8)]
    reviewer = await sign_in(engine, "reviewer", Role.reviewer)
    held: dict[int, str] = {}
    answers: Counter[int] = Counter()
    with serving(create_app(settings)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            found = await make(client, made, reviewer.headers, needed=2, scope={"features": list(range(20))})
            address = f"{SETS}/{found['id']}"

            async def label_until_nothing_is_left(person: SignedIn) -> list[int]:
                done: list[int] = []
                for _ in range(200):
                    response = await client.post(f"{address}/next", headers=person.headers)
                    answers[response.status_code] += 1
                    following = response.json()
                    feature = following["feature"]
                    if feature is None and not following["left"]:
                        return done
                    if feature is None:  # others have what is left
                        continue
                    assert held.setdefault(feature, person.actor.name) == person.actor.name
                    assert feature not in done
                    done.append(feature)
                    body = {"explanation": f"{person.actor.name} on {feature}", "set": "first pass"}
                    del held[feature]  # the server may give it away as soon as it has the label
                    mine = f"/api/v1/saes/{made.sae.slug}/features/{feature}/labels/mine"
                    answers[(await client.put(mine, json=body, headers=person.headers)).status_code] += 1
                raise AssertionError("it never ends")

            done = await asyncio.gather(*map(label_until_nothing_is_left, people))
    assert answers.keys() == {200}
    per_feature = Counter(feature for features in done for feature in features)
    assert per_feature == dict.fromkeys(range(20), 2)
    labels = (await session.execute(select(Label.feature, Label.person_id))).all()
    assert len(labels) == len(set(labels)) == 40
    assert len((await session.scalars(select(LabelRevision))).all()) == 40
    assert not (await session.scalars(select(LabelLease))).all()


async def test_a_lease_lasts_until_the_label_or_its_end(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine, session: AsyncSession
) -> None:
    ada, grace = await sign_in(engine, "Ada", Role.reviewer), await sign_in(engine, "Grace")
    found = await make(client, made, ada.headers, scope={"features": [1, 2]})
    address = f"{SETS}/{found['id']}"

    async def following(person: SignedIn, **body: Any) -> int | None:
        feature: int | None = (await client.post(f"{address}/next", json=body, headers=person.headers)).json()[
            "feature"
        ]
        return feature

    first = await following(ada)
    assert await following(ada) == first
    second = await following(ada, besides=[first])
    assert {first, second} == {1, 2}
    assert await following(grace) is None

    # She was killed with both: her draft stays, and once the leases have ended others get the features.
    draft = {
        "explanation": "rivers",
        "categories": ["water"],
        "interpretability": 4,
        "confidence": None,
        "cant_tell": False,
    }
    assert (await client.put(f"{address}/features/{first}/draft", json=draft, headers=ada.headers)).status_code == 204
    await session.execute(text("UPDATE label_lease SET expires_at = now() - interval '1 second'"))
    await session.commit()
    assert await following(grace) in (1, 2)
    taken = await following(grace)
    assert await following(ada) == ({1, 2} - {taken}).pop()
    assert (await client.get(f"{address}/features/{first}/draft", headers=ada.headers)).json() == draft
    problem(await client.get(f"{address}/features/{first}/draft", headers=grace.headers), 404)

    # What she typed can still be sent, though somebody else has the feature by now.
    mine = f"/api/v1/saes/{made.sae.slug}/features/{{}}/labels/mine"
    body = {"explanation": "rivers", "set": "first pass"}
    for feature in (1, 2):
        assert (await client.put(mine.format(feature), json=body, headers=ada.headers)).status_code == 200
    problem(await client.get(f"{address}/features/{first}/draft", headers=ada.headers), 404)
    assert await following(ada) is None
    assert await following(grace) is None
    too_long = draft | {"explanation": "x" * 2001}
    problem(await client.put(f"{address}/features/1/draft", json=too_long, headers=ada.headers), 422)
    problem(await client.put(f"{address}/features/9/draft", json=draft, headers=ada.headers), 422)


async def test_skipped_features_come_last_and_what_was_done_last_can_be_undone(
    client: httpx.AsyncClient, made: Synthetic
) -> None:
    found = await make(client, made, scope={"features": [1, 2, 3]})
    address = f"{SETS}/{found['id']}"
    body = {"explanation": "rivers", "set": "first pass", "confidence": 2}
    mine = f"/api/v1/saes/{made.sae.slug}/features/{{}}/labels/mine"

    async def following() -> Any:
        return (await client.post(f"{address}/next")).json()["feature"]

    assert (await client.post(f"{address}/undo")).json() == {"feature": None, "label": None}
    skipped = await following()
    assert (await client.post(f"{address}/skip", json={"feature": skipped})).status_code == 204
    second = await following()
    assert (await client.post(f"{address}/undo")).json() == {"feature": skipped, "label": None}
    await client.post(f"{address}/skip", json={"feature": skipped})
    await client.put(mine.format(second), json=body)
    undone = (await client.post(f"{address}/undo")).json()
    assert (undone["feature"], undone["label"]["status"], undone["label"]["explanation"]) == (
        second,
        "discarded",
        "rivers",
    )
    history = (await client.get(f"/api/v1/labels/{undone['label']['id']}/history")).json()["history"]
    assert [(each["act"], each["status"]) for each in history] == [("undone", "discarded"), ("saved", "submitted")]
    assert (await client.get(f"/api/v1/saes/{made.sae.slug}/features/{second}/labels")).json()["labels"] == []

    assert await following() == second
    assert (await client.put(mine.format(second), json=body)).json()["version"] == 3
    third = await following()
    await client.put(mine.format(third), json=body)
    assert await following() == skipped
    label = (
        await client.put(mine.format(third), json=body | {"explanation": "lakes"}, headers={"If-Match": "1"})
    ).json()
    back = await client.post(f"/api/v1/labels/{label['id']}/undo", headers={"If-Match": "2"})
    assert (back.json()["explanation"], back.json()["status"], back.headers["etag"]) == ("rivers", "submitted", '"3"')
    problem(await client.post(f"/api/v1/labels/{label['id']}/undo", headers={"If-Match": "2"}), 409)
    problem(await client.post("/api/v1/labels/999/undo", headers={"If-Match": "2"}), 404)
    problem(await client.post(f"{address}/skip", json={"feature": 7}), 422)


async def test_undo_goes_further_back_with_every_request(client: httpx.AsyncClient, made: Synthetic) -> None:
    found = await make(client, made, scope={"features": [1, 2]})
    mine = f"/api/v1/saes/{made.sae.slug}/features/{{}}/labels/mine"
    for feature, words, version in ((1, "one", None), (1, "two", 1), (2, "three", None)):
        headers = {"If-Match": str(version)} if version else {}
        body = {"explanation": words, "set": "first pass"}
        assert (await client.put(mine.format(feature), json=body, headers=headers)).status_code == 200

    async def undo() -> tuple[Any, ...]:
        undone = (await client.post(f"{SETS}/{found['id']}/undo")).json()
        label = undone["label"] or {}
        return undone["feature"], label.get("explanation"), label.get("status")

    assert await undo() == (2, "three", "discarded")
    assert await undo() == (1, "one", "submitted")
    await client.put(mine.format(1), json={"explanation": "four", "set": "first pass"}, headers={"If-Match": "3"})
    assert await undo() == (1, "one", "submitted")
    assert await undo() == (1, "one", "discarded")
    assert await undo() == await undo() == (None, None, None)
    label = (await client.get("/api/v1/labels/1/history")).json()["label"]
    again = await client.post("/api/v1/labels/1/undo", headers={"If-Match": str(label["version"])})
    assert "taken back already" in problem(again, 409)["detail"]


async def test_typing_keeps_the_next_feature_too_and_six_requests_at_once_lease_one(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine, session: AsyncSession
) -> None:
    ada, grace = await sign_in(engine, "Ada", Role.reviewer), await sign_in(engine, "Grace")
    found = await make(client, made, ada.headers, scope={"features": [1, 2]})
    address = f"{SETS}/{found['id']}"
    answers = await asyncio.gather(*(client.post(f"{address}/next", headers=ada.headers) for _ in range(6)))
    [first] = {answer.json()["feature"] for answer in answers}
    assert (await session.scalars(select(LabelLease.feature))).all() == [first]
    await client.post(f"{address}/next", json={"besides": [first]}, headers=ada.headers)
    soon = text("UPDATE label_lease SET expires_at = now() + interval '1 minute'")
    await session.execute(soon)
    await session.commit()
    typed = {"explanation": "rivers"}
    assert (await client.put(f"{address}/features/{first}/draft", json=typed, headers=ada.headers)).status_code == 204
    renewed = "SELECT bool_and(expires_at > now() + interval '9 minutes') FROM label_lease"
    assert await session.scalar(text(renewed))

    # Grace learns why there is nothing for her.
    page = (await client.get(f"/labelsets/{found['id']}/label", headers=grace.headers)).text
    assert "All 2 features that are left for you are before" in page
    assert "Ask again" in page
    await client.put(address, json={"closed": True}, headers=ada.headers)
    for path in ("", "/label"):
        page = (await client.get(f"/labelsets/{found['id']}{path}", headers=grace.headers)).text
        assert "2 left" not in page
        assert "Left for you" not in page


async def test_features_come_in_the_order_of_the_set(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine, session: AsyncSession
) -> None:
    ada, grace, kay = [await sign_in(engine, name, Role.reviewer) for name in ("Ada", "Grace", "Kay")]
    features = [1, 2, 3, 4]
    density = {row.number: row.density for row in made.features.rows()}

    async def order(person: SignedIn, **rules: Any) -> list[int]:
        name = f"{person.actor.name} {rules}"[:80]
        found = await make(client, made, kay.headers, name=name, scope={"features": features}, needed=2, **rules)
        if rules["order"] in ("fewest", "disagreement"):
            for author, feature, category in (("Ada", 2, "x"), ("Grace", 2, "y"), ("Ada", 3, "x")):
                writer = ada if author == "Ada" else grace
                body = {"explanation": "x", "categories": [category], "set": name}
                address = f"/api/v1/saes/{made.sae.slug}/features/{feature}/labels/mine"
                assert (await client.put(address, json=body, headers=writer.headers)).status_code == 200
            await client.put(f"{SETS}/{found['id']}", json={"needed": 3}, headers=kay.headers)
        got: list[int] = []
        while True:
            body = {"besides": got}
            answer = await client.post(f"{SETS}/{found['id']}/next", json=body, headers=person.headers)
            feature = answer.json()["feature"]
            if feature is None:
                return got
            got.append(feature)

    assert await order(kay, order="density") == sorted(features, key=lambda number: (-density[number], number))
    assert set(await order(kay, order="random")) == set(features)
    fewest = await order(kay, order="fewest")
    assert (set(fewest[:2]), fewest[2:]) == ({1, 4}, [3, 2])
    assert (await order(kay, order="disagreement"))[:2] == [2, 3]
    dealt = [await order(person, order="assigned", people=["Ada", "Grace", "Kay"]) for person in (ada, grace, kay)]
    assert sorted(map(len, dealt)) == [2, 3, 3]
    assert await order(ada, order="assigned", people=["Grace", "Kay"]) == []
    await sign_in(engine, "Vi", Role.viewer)
    off = await sign_in(engine, "Off")
    await disable_account(session, off.actor.person_id or 0)
    await session.commit()
    for names, said in (
        (["Nobody"], "no person named"),
        (["Ada"], "cannot give as many"),
        (["Ada", "Vi", "Off"], "cannot label: Vi (viewer), Off (disabled)"),
    ):
        body = {"sae": made.sae.slug, "name": "z", "needed": 2, "people": names}
        assert said in problem(await client.post(SETS, json=body, headers=kay.headers), 422)["detail"]


async def test_the_default_set_offers_any_active_feature(client: httpx.AsyncClient, made: Synthetic) -> None:
    label = {"explanation": "x"}
    await client.put(f"/api/v1/saes/{made.sae.slug}/features/3/labels/mine", json=label)
    [default] = (await client.get(SETS)).json()["labelsets"]
    assert (default["name"], default["features"]) == ("default", None)
    following = (await client.post(f"{SETS}/{default['id']}/next")).json()
    strongest = max((row for row in made.features.rows() if row.number != 3), key=lambda row: (row.max, row.number))
    assert following["feature"] == strongest.number
    problem(await client.put(f"{SETS}/{default['id']}", json={"closed": True}), 422)


async def test_one_slow_write_never_holds_anothers(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, engine: AsyncEngine
) -> None:
    await make(client, made)
    await add_label(session, made.sae, 1, "the first one makes the default set")
    await session.commit()
    await add_label(session, made.sae, 2, "a slow one")  # its transaction stays open
    mine = f"/api/v1/saes/{made.sae.slug}/features/{{}}/labels/mine"
    for feature, name in ((2, "default"), (3, "default"), (3, "first pass")):
        body = {"explanation": "quick", "set": name, "author": "grace"}
        answer = await asyncio.wait_for(client.put(mine.format(feature), json=body), 4)  # locks give up after 5 s
        assert answer.status_code == 200
    await session.commit()
    assert (await client.get(f"/api/v1/saes/{made.sae.slug}")).json()["labelled"] == 3
