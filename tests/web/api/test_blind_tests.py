"""Blind tests through the API: who may answer, what is told when, and that nothing tells the truth before."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import transaction
from app.queries.blind_tests import get_items
from app.queries.label_sets import ensure_set
from app.queries.people import find_name
from app.services.actors import Role
from app.services.claims import claim
from app.settings import Settings
from app.tables import BlindTestItem, Label, LabelSet
from tests.blind import FEW_TOKENS, OPTIONS, keep_store
from tests.factories import Synthetic
from tests.people import sign_in
from tests.web.api.problems import problem
from tests.web.site import SECRET, site

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture(scope="session")
def made_options() -> dict[str, int]:
    return OPTIONS


@pytest.fixture
async def client(made: Synthetic, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A site whose inference process has the activation store."""
    settings = settings.model_copy(update={"inference_secret": SecretStr(SECRET)})
    keep_store(made, settings.artifacts)
    async with site(settings, inference=settings) as client:
        yield client


class People:
    """What people do with the tests of one feature's label, which ada wrote."""

    def __init__(self, client: httpx.AsyncClient, made: Synthetic, feature: int) -> None:
        self.client = client
        self.labels = f"/api/v1/saes/{made.sae.slug}/features/{feature}/labels"
        self.feature = feature
        self.label: dict[str, Any] = {}

    async def write(self, explanation: str = "words for music", **headers: str) -> None:
        sent = {"explanation": explanation, "author": "ada"}
        answer = await self.client.put(f"{self.labels}/mine", json=sent, headers=headers)
        self.label = answer.raise_for_status().json()

    async def make(self, kind: str = "detection", **fields: Any) -> dict[str, Any]:
        of = {"feature": self.feature} if kind == "intruder" else {"label": self.label["id"]}
        answer = await self.client.post("/api/v1/labelsets/1/tests", json={"kind": kind, **of, **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        assert answer.headers["Location"] == f"/api/v1/tests/{made['id']}"
        return made

    async def read(self, test: dict[str, Any], author: str) -> httpx.Response:
        return await self.client.get(f"/api/v1/tests/{test['id']}", params={"author": author})

    async def answer(self, test: dict[str, Any], author: str, answers: list[int], **fields: Any) -> httpx.Response:
        sent = {"author": author, "answers": answers, **fields}
        return await self.client.post(f"/api/v1/tests/{test['id']}/answers", json=sent)


@pytest.fixture
async def people(client: httpx.AsyncClient, made: Synthetic) -> People:
    people = People(client, made, FEW_TOKENS)
    await people.write()
    return people


async def test_a_test_is_answered_by_another_person_and_then_scored(
    people: People, client: httpx.AsyncClient, sessionmaker: Sessions
) -> None:
    test = await people.make()
    assert (test["kind"], test["explanation"], test["items"]) == ("detection", "words for music", 20)
    assert [len(question["snippets"]) for question in test["questions"]] == [1] * 20
    assert all(snippet["marked"] == [] for question in test["questions"] for snippet in question["snippets"])

    assert not test["may_answer"]  # ada made it, and wrote the label
    assert "You wrote this label" in problem(await people.answer(test, "ada", [1] * 20), 403)["detail"]
    of_grace = await client.put(f"{people.labels}/mine", json={"explanation": "music", "author": "grace"})
    hers = (await client.post("/api/v1/labelsets/1/tests", json={"label": of_grace.json()["id"]})).json()
    problem(await people.answer(hers, "grace", [1] * 20), 403)
    opened = (await people.read(test, "grace")).json()
    assert opened["may_answer"]
    assert [opened[name] for name in ("feature", "seed", "answers", "truth", "votes")] == [None] * 5

    for wrong, said in (
        ([1] * 19, "20 items, and 19 are answered"),
        ([1] * 21, "20 items, and 21 are answered"),
        ([1, 7] + [1] * 18, "Answer 2 is 7: each is 1 for yes or 0 for no"),
    ):
        assert said in problem(await people.answer(test, "grace", wrong), 422)["detail"]
    problem(await people.answer(test, "grace", [1] * 20, confidences=[2.0] * 20), 422)
    async with transaction(sessionmaker) as session:
        truth = [item.truth for item in await get_items(session, test["id"])]
    given = [1 - truth[0], *truth[1:]]
    done = (await people.answer(test, "grace", given)).raise_for_status().json()
    assert done["answers"] == given
    assert [item["truth"] for item in done["truth"]] == truth
    assert (done["feature"], done["may_answer"]) == (people.feature, False)
    [result] = done["results"]
    score = result["score"]
    assert result["tester"] == "grace"
    assert score["balanced_accuracy"]["value"] == pytest.approx(0.95)
    assert score["chance"] == 0.5
    assert score["auprc"] is None
    assert sum(kind["items"] for kind in score["by_kind"].values()) == 20
    assert sum(kind["correct"] for kind in score["by_kind"].values()) == 19

    assert (await people.answer(test, "grace", given)).json() == done  # the same answers, sent twice
    assert "first answers stay" in problem(await people.answer(test, "grace", truth), 409)["detail"]
    hopper = (await people.answer(test, "hopper", truth, confidences=[float(each) for each in truth])).json()
    assert hopper["results"][1]["score"]["auprc"]["value"] == 1
    assert hopper["votes"]["auprc"]["value"] > 0.9  # two votes each
    told = (await people.read(test, "ada")).json()  # somebody has answered, and the author may look
    assert [item["truth"] for item in told["truth"]] == truth
    [_, listed] = (await client.get("/api/v1/labelsets/1/tests")).json()["tests"]
    assert [result["tester"] for result in listed["results"]] == ["grace", "hopper"]


@pytest.mark.parametrize("kind", ["detection", "fuzzing", "intruder"])
async def test_no_answer_depends_on_the_truth_before_ones_own_is_in(
    people: People, sessionmaker: Sessions, kind: str
) -> None:
    test = await people.make(kind)
    pages = [f"/api/v1/tests/{test['id']}?author=grace", "/api/v1/labelsets/1/tests", f"/tests/{test['id']}"]
    pages += ["/labelsets/1/tests"]

    async def read() -> list[tuple[str, dict[str, str]]]:
        answers = [await people.client.get(page) for page in pages]
        assert [answer.status_code for answer in answers] == [200] * len(pages)
        assert all(answer.headers["Cache-Control"] == "no-store" for answer in answers)
        return [(answer.text, {k: v for k, v in answer.headers.items() if k != "server-timing"}) for answer in answers]

    before = await read()
    changed = {
        "truth": 1 - BlindTestItem.truth,
        "why": "near_miss",
        "hidden": [{"sequence": 7, "active": [], "values": []}],
    }
    async with transaction(sessionmaker) as session:
        await session.execute(update(BlindTestItem).values(changed))
    assert await read() == before  # text, ETag and all
    for text, _ in before:
        assert "sequence" not in text
        assert "near_miss" not in text


async def test_order_and_marks_do_not_tell(people: People, sessionmaker: Sessions) -> None:
    async with transaction(sessionmaker) as session:
        orders = set()
        for _ in range(4):
            test = await people.make("fuzzing")
            items = await get_items(session, test["id"])
            orders.add(tuple(item.truth for item in items))
            assert all(len(item.shown[0]["marked"]) == len(item.hidden[0]["active"]) for item in items)
    assert len(orders) > 1


async def test_a_later_test_shows_other_snippets_and_an_earlier_one_is_closed_to_who_saw_some(
    people: People, sessionmaker: Sessions
) -> None:
    people.feature, people.labels = 0, people.labels.replace(f"features/{FEW_TOKENS}", "features/0")
    await people.write()
    first, second = await people.make(items=10), await people.make(items=10)

    async def sequences(test: dict[str, Any]) -> set[int]:
        async with transaction(sessionmaker) as session:
            return {hidden["sequence"] for item in await get_items(session, test["id"]) for hidden in item.hidden}

    assert await sequences(first) & await sequences(second)  # nobody has answered either
    (await people.answer(first, "grace", [1] * 10)).raise_for_status()
    assert not await sequences(first) & await sequences(await people.make(items=10))
    assert "told you the truth" in problem(await people.answer(second, "grace", [1] * 10), 403)["detail"]
    assert (await people.answer(second, "hopper", [1] * 10)).status_code == 200


async def test_one_person_answers_once_however_many_requests(people: People) -> None:
    test = await people.make()
    answers = [[number % 2] * 20 for number in range(6)]
    sent = await asyncio.gather(*(people.answer(test, "grace", given) for given in answers))
    statuses = [answer.status_code for answer in sent]
    assert set(statuses) == {200, 409}
    assert len((await people.read(test, "grace")).json()["results"]) == 1
    assert all("truth" not in answer.json() for answer in sent if answer.status_code == 409)


async def test_what_cannot_be_tested_is_refused(people: People, client: httpx.AsyncClient, made: Synthetic) -> None:
    async def refused(status: int, **sent: Any) -> str:
        return str(problem(await client.post("/api/v1/labelsets/1/tests", json=sent), status)["detail"])

    own = people.label["id"]
    assert "give the label's id" in await refused(422, kind="detection")
    assert "needs no label" in await refused(422, kind="intruder", label=own)
    assert "no such label" in await refused(404, kind="fuzzing", label=10_000)
    assert "no feature 24" in await refused(404, kind="intruder", feature=24)
    await refused(422, kind="other", label=own)
    await refused(422, kind="detection", label=own, items=1000)
    problem(await client.post("/api/v1/labelsets/99/tests", json={"label": own}), 404)
    problem(await client.get("/api/v1/tests/99"), 404)
    rare = int((made.features.activations > 0).any(axis=2).sum(axis=1).argmin())
    assert "Too few held-out snippets" in await refused(422, kind="intruder", feature=rare)
    await client.put(f"{people.labels}/mine", json={"explanation": "x", "status": "draft"}, headers={"If-Match": "1"})
    assert "Only a submitted label" in await refused(422, kind="detection", label=own)


async def test_a_score_stands_beside_its_label_until_the_text_changes(
    people: People, client: httpx.AsyncClient
) -> None:
    test = await people.make()
    (await people.answer(test, "grace", [1] * 20)).raise_for_status()
    [label] = (await client.get(people.labels)).json()["labels"]
    [score] = label["scores"]
    assert (score["test"], score["kind"], score["tester"], score["is_current"]) == (
        test["id"],
        "detection",
        "grace",
        True,
    )
    assert score["score"]["balanced_accuracy"]["value"] == 0.5
    await people.write("something else", **{"If-Match": "1"})
    [label] = (await client.get(people.labels)).json()["labels"]
    assert not label["scores"][0]["is_current"]


async def test_in_a_blind_set_a_label_is_tested_by_those_who_may_see_it(
    client: httpx.AsyncClient, made: Synthetic, sessionmaker: Sessions, engine: AsyncEngine
) -> None:
    ada, grace, lise = [await sign_in(engine, name) for name in ("ada", "grace", "lise")]
    viewer = await sign_in(engine, "vera", Role.viewer)
    async with transaction(sessionmaker) as session:
        blind = await ensure_set(session, made.sae.id, "blind", person_id=ada.actor.person_id)
        await session.execute(update(LabelSet).where(LabelSet.id == blind.id).values(blind=True))
    mine = f"/api/v1/saes/{made.sae.slug}/features/{FEW_TOKENS}/labels/mine"
    label = {"explanation": "words for music", "set": "blind"}
    written = (await client.put(mine, json=label, headers=ada.headers)).raise_for_status().json()
    tests = f"/api/v1/labelsets/{blind.id}/tests"
    problem(await client.post(tests, json={"label": written["id"]}, headers=grace.headers), 404)
    test = (await client.post(tests, json={"label": written["id"]}, headers=ada.headers)).json()
    address, answers = f"/api/v1/tests/{test['id']}", {"answers": [1] * 20}

    problem(await client.get(address, headers=grace.headers), 404)
    problem(await client.post(f"{address}/answers", json=answers, headers=grace.headers), 404)
    assert (await client.get(tests, headers=grace.headers)).json()["tests"] == []
    assert "words for music" not in (await client.get(f"/labelsets/{blind.id}/tests", headers=grace.headers)).text
    await client.put(mine, json=label | {"explanation": "instruments"}, headers=grace.headers)
    assert (await client.post(f"{address}/answers", json=answers, headers=grace.headers)).status_code == 200
    problem(await client.get(address, headers=lise.headers), 404)
    problem(await client.post(f"{address}/answers", json=answers, headers=viewer.headers), 403)
    problem(await client.post(f"{address}/answers", json=answers), 401)
    problem(await client.post(f"{address}/answers", json=answers | {"author": "ada"}, headers=lise.headers), 403)


async def test_an_account_that_claims_a_name_knows_what_the_name_was_told(
    people: People, sessionmaker: Sessions, engine: AsyncEngine
) -> None:
    test = await people.make()
    (await people.answer(test, "grace", [1] * 20)).raise_for_status()
    grace, admin = await sign_in(engine, "grace hopper"), await sign_in(engine, "root", Role.admin)
    assert grace.actor.person_id is not None
    address = f"/api/v1/tests/{test['id']}"
    assert (await people.client.get(address, headers=grace.headers)).json()["truth"] is None
    async with transaction(sessionmaker) as session:
        name = await find_name(session, "grace")
        assert name is not None
        await claim(session, name, grace.actor.person_id, by=admin.actor)
    told = (await people.client.get(address, headers=grace.headers)).json()
    assert (told["answers"], told["may_answer"], len(told["truth"])) == ([1] * 20, False, 20)
    assert [result["tester"] for result in told["results"]] == ["grace hopper"]


async def test_viewers_are_offered_no_test_and_a_discarded_label_ends_its_test(
    people: People, client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    test = await people.make()
    page = people.labels.removeprefix("/api/v1").removesuffix("/labels")
    offers = (page, "/labelsets/1/tests", f"/tests/{test['id']}")
    words = ("Does it hold?", "Make it", "Submit all answers")
    viewer = (await sign_in(engine, "Vi", Role.viewer)).headers
    labeller = (await sign_in(engine, "Li", Role.labeller)).headers
    for path, said in zip(offers, words, strict=True):
        assert said not in (await client.get(path, headers=viewer)).text, path
        assert said in (await client.get(path, headers=labeller)).text, path
    opened = (await client.get(f"/api/v1/tests/{test['id']}", headers=viewer)).json()
    assert (opened["may_answer"], "role labeller" in opened["why_not"]) == (False, True)

    async with engine.begin() as connection:
        await connection.execute(update(Label).values(status="discarded").where(Label.id == people.label["id"]))
    sent = {"answers": [1] * 20}
    gone = await client.post(f"/api/v1/tests/{test['id']}/answers", json=sent, headers=labeller)
    assert "was discarded" in problem(gone, 409)["detail"]
    assert (await client.get(f"/tests/{test['id']}", headers=labeller)).status_code == 409
