"""Comments and activity through the API: threads, mentions, deleting, paging, and what a blind set hides."""

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.services.actors import Role
from tests.factories import Synthetic, add_label
from tests.labelling import label, make_set
from tests.people import sign_in
from tests.web.api.problems import problem
from tests.web.html import parse
from tests.web.pages.conftest import HTMX


@pytest.fixture
def url(made: Synthetic) -> str:
    return f"/api/v1/saes/{made.sae.slug}/features/5/comments"


async def test_comments_stand_in_threads_and_mention_people(
    client: httpx.AsyncClient, engine: AsyncEngine, url: str
) -> None:
    ann = await sign_in(engine, "Ann Lee")
    await sign_in(engine, "ann")
    boss = await sign_in(engine, "boss", Role.admin)
    eve = await sign_in(engine, "eve")
    viewer = await sign_in(engine, "viewer", Role.viewer)
    body = {"text": " Boats too, @ANN LEE? And @annabel, @nobody, a@boss <b>&</b>\r\n"}
    problem(await client.post(url, json=body, headers=viewer.headers), 403)
    first = await client.post(url, json=body, headers=eve.headers)
    assert first.status_code == 201, first.text
    comment = first.json()
    assert (comment["author"], comment["mentions"], comment["set"]) == ("eve", ["Ann Lee"], "default")
    assert comment["text"] == "Boats too, @ANN LEE? And @annabel, @nobody, a@boss <b>&</b>"
    answer = (await client.post(url, json={"text": "yes", "answers": comment["id"]}, headers=ann.headers)).json()
    deeper = (await client.post(url, json={"text": "oh, @ann", "answers": answer["id"]}, headers=eve.headers)).json()
    assert answer["answers"] == deeper["answers"] == comment["id"]
    assert deeper["mentions"] == ["ann"]

    for wrong in ({"text": " "}, {"text": "x" * 2001}, {"text": "a\0b"}, {"text": "x", "answers": None, "more": 1}):
        problem(await client.post(url, json=wrong, headers=eve.headers), 422)
    for missing in ({"text": "x", "answers": 99}, {"text": "x", "set": "none"}):
        problem(await client.post(url, json=missing, headers=eve.headers), 404)
    other = url.replace("/5/", "/6/")
    problem(await client.post(other, json={"text": "x", "answers": comment["id"]}, headers=eve.headers), 404)

    page = await client.get(url.removeprefix("/api/v1").removesuffix("/comments"), headers=ann.headers)
    shown = parse(page.text).one("section", id="comments")
    assert [one.text for one in shown.all("b")] == ["@ANN LEE", "@ann"]
    assert "<b>&</b>" in shown.text

    mine = (await client.get("/api/v1/activity", params={"mentions": True}, headers=ann.headers)).json()["activity"]
    assert [(act["act"], act["subject"]) for act in mine] == [("comment added", comment["id"])]
    feed = parse((await client.get("/activity", headers=ann.headers)).text)
    assert [heading.text for heading in feed.all("h2")][:2] == ["Mentions of you", "All"]
    assert len(feed.all("li", cls="act")) == 4

    problem(await client.delete(f"/api/v1/comments/{comment['id']}", headers=ann.headers), 403)
    assert (await client.delete(f"/api/v1/comments/{comment['id']}", headers=eve.headers)).json()["text"] == ""
    assert (await client.delete(f"/api/v1/comments/{deeper['id']}", headers=boss.headers)).status_code == 200
    problem(await client.delete("/api/v1/comments/999", headers=boss.headers), 404)
    left = (await client.get(url, headers=ann.headers)).json()["comments"]
    assert [(one["text"], one["deleted_at"] is None) for one in left] == [("", False), ("yes", True), ("", False)]
    assert not (await client.get("/api/v1/activity?mentions=1", headers=ann.headers)).json()["activity"][1:]


async def test_the_feed_comes_in_pages_without_what_others_draft(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, engine: AsyncEngine
) -> None:
    for feature in range(5):
        await add_label(session, made.sae, feature, f"label {feature}", author="grace")
    await add_label(session, made.sae, 9, "not sure", author="grace", status="draft")
    await session.commit()
    first = (await client.get("/api/v1/activity?limit=3")).json()
    assert [act["feature"] for act in first["activity"]] == [4, 3, 2]
    rest = (await client.get(f"/api/v1/activity?limit=3&before={first['next_before']}")).json()
    assert [act["feature"] for act in rest["activity"]] == [1, 0]
    assert rest["next_before"] is None
    by_sae = await client.get("/api/v1/activity", params={"sae": made.sae.slug})
    assert len(by_sae.json()["activity"]) == 5
    for missing in ("sae=none", "set=99"):
        problem(await client.get(f"/api/v1/activity?{missing}"), 404)
        assert (await client.get(f"/activity?{missing}")).status_code == 404


async def test_a_blind_set_hides_comments_and_activity(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, engine: AsyncEngine, url: str
) -> None:
    ann, ben = await sign_in(engine, "ann"), await sign_in(engine, "ben")
    boss = await sign_in(engine, "boss", Role.reviewer)
    of = await make_set(engine, made.sae, blind=True)
    await label(session, made.sae, 5, ben.actor, "rivers")
    await session.commit()
    said = await client.post(url, json={"text": "it is @ann's", "set": "medicine"}, headers=ben.headers)
    assert said.status_code == 201

    async def seen(headers: dict[str, str]) -> tuple[int, int, int]:
        comments = (await client.get(url, headers=headers)).json()["comments"]
        acts = (await client.get(f"/api/v1/activity?set={of.id}", headers=headers)).json()["activity"]
        named = (await client.get("/api/v1/activity?mentions=1", headers=headers)).json()["activity"]
        return len(comments), len(acts), len(named)

    assert await seen(ann.headers) == (0, 0, 0)
    answer = {"text": "x", "answers": said.json()["id"]}
    problem(await client.post(url, json=answer, headers=ann.headers), 404)
    assert await seen(boss.headers) == (1, 3, 0)  # and that the set was made
    await label(session, made.sae, 5, ann.actor, "boats")
    await session.commit()
    assert await seen(ann.headers) == (1, 3, 1)
    await session.execute(text("UPDATE label SET status = 'draft' WHERE person_id = :id"), {"id": ann.actor.person_id})
    await session.execute(text("UPDATE label_set SET closed_at = now()"))
    await session.commit()
    assert (await seen(ann.headers))[0] == 1


async def test_the_form_writes_answers_and_deletes(client: httpx.AsyncClient, made: Synthetic) -> None:
    base = f"/saes/{made.sae.slug}/features/5"
    sent = await client.post(f"{base}/comments", data={"text": "hm"})
    assert (sent.status_code, sent.headers["location"]) == (303, f"{base}#comments")
    panel = parse((await client.post(f"{base}/comments", data={"text": " "}, headers=HTMX)).text)
    assert panel.one("p", role="alert").text == "A comment needs a text."
    again = await client.post(f"{base}/comments", data={"text": "x" * 2001})
    assert again.status_code == 422
    assert "x" * 2001 in again.text
    [form] = [
        one
        for one in parse((await client.get(base)).text).all("form")
        if one.attributes.get("action", "").endswith("/delete")
    ]
    assert (await client.post(form["action"])).status_code == 303
    shown = (await client.get(f"{base}/comments", headers=HTMX)).text
    assert "hm" not in shown
    assert "Delete" not in shown
