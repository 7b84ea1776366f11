"""Agreement, progress, decisions and votes through the API, as a labeller and a reviewer see them."""

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.actors import Role
from tests.factories import Synthetic
from tests.labelling import SHARED, label_together, make_set, sign_up
from tests.web.api.problems import problem


async def test_a_reviewer_reads_agreement_and_progress_and_decides(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic
) -> None:
    of = await make_set(engine, made.sae)
    await label_together(engine, made.sae)
    base = f"/api/v1/labelsets/{of.id}"

    agreement = (await client.get(f"{base}/agreement")).json()
    assert (agreement["features"], agreement["labels"], agreement["partial"]) == (SHARED, 2 * SHARED + 5, False)
    alpha = agreement["categories"]["alpha"]
    assert alpha["features"] == SHARED and alpha["reason"] is None
    assert alpha["interval"][0] < alpha["value"] < alpha["interval"][1]
    assert agreement["categories"]["ac1"] is None
    assert agreement["interpretability"]["ac1"]["value"] is not None
    assert [entry["category"] for entry in agreement["per_category"]] == ["syntax", "medicine", "names"]
    assert agreement["per_category"][0]["against"]
    assert {person["person"]["name"] for person in agreement["people"]} == {"ada", "grace", "linus"}
    assert [person["name"] for person in agreement["pairs"][0]["people"]] == ["ada", "grace"]
    few = agreement["pairs"][1]["categories"]
    assert (few["value"], few["interval"]) == (None, None)
    assert few["reason"] == "two people answered for only 5 features, and it takes 10"

    progress = (await client.get(f"{base}/progress")).json()
    assert (progress["features"], progress["needed"], progress["done"], progress["left"]) == (24, 2, 17, 7)
    assert [person["person"]["name"] for person in progress["people"]] == ["ada", "grace", "linus"]
    assert progress["untold"] == [20] and len(progress["days"]) == 14

    collisions = (await client.get(f"{base}/collisions")).json()
    assert collisions["labelled"] == SHARED + 1 and collisions["groups"]

    differing = (await client.get(f"{base}/disagreements", params={"limit": 2})).json()
    assert (len(differing["features"]), differing["next_cursor"]) == (2, "2")
    assert len((await client.get(f"{base}/disagreements", params={"cursor": 2})).json()["features"]) == 3
    worst = differing["features"][0]
    assert worst["state"] == "open" and "categories" in worst["differences"] and worst["decision"] is None

    theirs = worst["labels"][0]
    decision = {"feature": worst["feature"], "explanation": theirs["explanation"], "categories": theirs["categories"]}
    first = await client.post(f"{base}/decisions", json=decision)
    assert first.status_code == 201
    again = await client.post(f"{base}/decisions", json=decision)
    assert again.json() == first.json()
    assert first.json()["person"]["name"] == "ada"
    assert first.json()["labels"] == {str(label["id"]): 1 for label in worst["labels"]}
    conflict = problem(await client.post(f"{base}/decisions", json=decision | {"note": "why"}), 409)
    assert conflict["current"]["id"] == first.json()["id"] and conflict["submitted"]["note"] == "why"
    replaced = await client.post(f"{base}/decisions", json=decision | {"note": "why", "replaces": first.json()["id"]})
    assert replaced.status_code == 201
    listed = (await client.get(f"{base}/decisions", params={"limit": 1})).json()
    assert listed["decisions"] == [first.json()]
    rest = await client.get(f"{base}/decisions", params={"cursor": listed["next_cursor"], "feature": worst["feature"]})
    assert rest.json() == {"decisions": [replaced.json()], "next_cursor": None}
    decided = await client.get(f"{base}/disagreements", params={"state": "decided"})
    assert [entry["feature"] for entry in decided.json()["features"]] == [worst["feature"]]

    other = next(label for label in worst["labels"] if label["person"]["name"] == "grace")
    voted = await client.put(f"/api/v1/labels/{other['id']}/vote", json={"value": 1})
    assert voted.json() == {"label": other["id"], "up": 1, "down": 0, "mine": 1}
    own = next(label for label in worst["labels"] if label["person"]["name"] == "ada")
    problem(await client.put(f"/api/v1/labels/{own['id']}/vote", json={"value": 1}), 403)
    problem(await client.put(f"/api/v1/labels/{other['id']}/vote", json={"value": 2}), 422)
    for path in ("agreement", "progress", "collisions", "disagreements", "decisions"):
        problem(await client.get(f"/api/v1/labelsets/999/{path}"), 404)
        problem(await client.get(f"/api/v1/labelsets/{2**40}/{path}"), 422)
    problem(await client.post(f"{base}/decisions", json={"feature": 1, "explanation": " "}), 422)


async def test_in_a_blind_set_a_labeller_sees_no_more_than_they_have_labelled(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic
) -> None:
    of = await make_set(engine, made.sae, blind=True)
    await label_together(engine, made.sae)
    base = f"/api/v1/labelsets/{of.id}"
    _, reviewer = await sign_up(engine, "rosa", Role.reviewer)
    _, labeller = await sign_up(engine, "linus the second", Role.labeller)
    decision = {"feature": 0, "explanation": "a secret decision"}
    assert (await client.post(f"{base}/decisions", json=decision, headers=reviewer)).status_code == 201
    problem(await client.post(f"{base}/decisions", json=decision, headers=labeller), 403)
    problem(await client.get(f"{base}/agreement"), 401)

    def hidden(response: httpx.Response) -> bool:
        assert response.status_code == 200
        return not any(words in response.text for words in ("words of", "quite another", "secret", "grace", 'linus"'))

    paths = ("agreement", "progress", "collisions", "disagreements", "decisions")
    assert all([hidden(await client.get(f"{base}/{path}", headers=labeller)) for path in paths])
    assert not any(
        [hidden(await client.get(f"{base}/{path}", headers=reviewer)) for path in ("agreement", "decisions")]
    )

    mine = {"explanation": "mine", "set": "medicine"}
    own = f"/api/v1/saes/{made.sae.slug}/features/0/labels/mine"
    assert (await client.put(own, json=mine, headers=labeller)).status_code == 200
    [seen] = (await client.get(f"{base}/disagreements", headers=labeller)).json()["features"]
    assert seen["feature"] == 0 and seen["decision"]["explanation"] == "a secret decision"
    agreement = (await client.get(f"{base}/agreement", headers=labeller)).json()
    assert (agreement["features"], agreement["partial"], agreement["changed_after_others"]) == (1, True, 0)
    alone = f"/api/v1/saes/{made.sae.slug}/features/19/labels/mine"  # which nobody else has labelled
    for address, version in ((own, "1"), (alone, None), (alone, "1")):
        said = mine | {"explanation": f"after reading theirs, {version}"}
        headers = labeller | ({"If-Match": version} if version else {})
        assert (await client.put(address, json=said, headers=headers)).status_code == 200
    seen_by_all = (await client.get(f"{base}/agreement", headers=reviewer)).json()
    assert seen_by_all["changed_after_others"] == 1
    page = (await client.get(f"/labelsets/{of.id}/agreement", headers=reviewer)).text
    assert "1 label of this blind set was changed" in " ".join(page.split())
    assert [person["person"]["name"] for person in agreement["people"]] == ["linus the second"]
    progress = (await client.get(f"{base}/progress", headers=labeller)).json()
    assert [person["person"]["name"] for person in progress["people"]] == ["linus the second"]
    assert progress["untold"] == [] and progress["submitted"] > SHARED
