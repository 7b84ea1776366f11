"""Labels side by side, and decisions about them."""

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.queries.decisions import list_decisions
from app.queries.label_sets import LabelSetView
from app.queries.sql.visibility import Reader
from app.services.actors import Role
from tests.factories import Synthetic
from tests.labelling import label, label_together, make_set, sign_up
from tests.web.html import parse
from tests.web.pages.conftest import HTMX

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def of(engine: AsyncEngine, made: Synthetic) -> LabelSetView:
    made_set = await make_set(engine, made.sae)
    await label_together(engine, made.sae)
    return made_set


async def test_a_reviewer_goes_through_what_differs(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic, of: LabelSetView
) -> None:
    async with transaction(create_sessionmaker(engine)) as session:
        await label(session, made.sae, 12, HOSTILE, HOSTILE, "names", interpretability=1)
    base = f"/labelsets/{of.id}/adjudicate"
    response = await client.get(base)
    assert HOSTILE not in response.text
    page = parse(response.text)
    rows = page.all("a", cls="difference")
    assert [choice.line for choice in page.all("nav", **{"aria-label": "Which features"})[0].all("a")] == [
        "To decide 5", "Decided 0", "All 5",
    ]  # fmt: skip
    assert {row["href"] for row in rows} == {f"{base}/{feature}" for feature in (0, 4, 5, 8, 12)}

    response = await client.get(f"{base}/12")
    assert HOSTILE not in response.text
    page = parse(response.text)
    assert [item.all("p")[1].text for item in page.all("ol", cls="side-by-side")[0].all("li")] == [
        "words of syntax 6", "quite another thing", HOSTILE,
    ]  # fmt: skip
    take = page.all("a", **{"data-key": "2"})[0]
    form = parse((await client.get(take["hx-get"], headers=HTMX)).text)
    assert form.all("textarea", name="explanation")[0].text == "quite another thing"
    assert [box["value"] for box in form.all("input", type="checkbox", checked=None)] == ["medicine"]

    data = {"explanation": "one reading", "categories": ["syntax", "names"], "interpretability": "4", "note": HOSTILE}
    saved = await client.post(f"{base}/12", data=data)
    assert saved.status_code == 303
    following = (await client.get(saved.headers["location"])).headers["location"]
    assert following.startswith(f"{base}/") and not following.endswith("/12")
    async with transaction(create_sessionmaker(engine)) as session:
        [kept] = await list_decisions(session, of.id, reader=Reader(sees_all=True), limit=9)
    assert (kept.explanation, kept.categories, kept.interpretability) == ("one reading", ("syntax", "names"), 4)

    page = parse((await client.get(f"{base}/12")).text)
    assert "one reading" in page.all("section", cls="decided")[0].line
    assert page.all("input", name="replaces")[0]["value"] == str(kept.id)
    stale = await client.post(f"{base}/12", data=data | {"explanation": "mine"})
    assert stale.status_code == 409
    again = parse(stale.text)
    assert "one reading" in again.all("blockquote")[0].text
    assert again.all("textarea", name="explanation")[0].text == "mine"
    assert again.all("input", name="replaces")[0]["value"] == str(kept.id)
    empty = await client.post(f"{base}/12", data={"explanation": " ", "note": "kept", "replaces": str(kept.id)})
    assert empty.status_code == 422
    assert parse(empty.text).all("textarea", name="note")[0].text == "kept"
    on_feature = parse((await client.get(f"/saes/{made.sae.slug}/features/12")).text)
    assert "Decided in medicine one reading" in on_feature.all("section", cls="decided")[0].line
    assert on_feature.all("a", href=f"{base}/12")[-1].line == "3 labels of medicine side by side, with votes"
    decided = parse((await client.get(f"{base}?show=decided")).text)
    assert [row["href"] for row in decided.all("a", cls="difference")] == [f"{base}/12"]
    for wrong in (f"{base}/24", "/labelsets/999/adjudicate", f"/labelsets/999/adjudicate/{2**31 - 1}"):
        assert (await client.get(wrong)).status_code == 404


async def test_votes_are_cast_with_and_without_scripts(client: httpx.AsyncClient, of: LabelSetView) -> None:
    base = f"/labelsets/{of.id}/adjudicate/0"
    page = parse((await client.get(base)).text)
    own, theirs, *_ = page.all("form", cls="votes")
    assert own.all("button") == []
    fields = {"label": theirs.all("input")[0]["value"], "value": "1"}
    redirect = await client.post(theirs["action"], data=fields)
    assert (redirect.status_code, redirect.headers["location"]) == (303, f"{base}#label-{fields['label']}")
    voted = parse((await client.post(theirs["hx-post"], data=fields | {"value": "-1"}, headers=HTMX)).text)
    up, down = voted.all("button")
    assert (up.line, up["aria-pressed"], down.line, down["aria-pressed"]) == (
        "▲fits 0", "false", "▼does not fit 1", "true",
    )  # fmt: skip
    assert down["value"] == "0"  # takes it back


async def test_a_labeller_votes_and_decides_nothing(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic
) -> None:
    of = await make_set(engine, made.sae, blind=True)
    await label_together(engine, made.sae)
    linus, headers = await sign_up(engine, "linus the second", Role.labeller)
    base = f"/labelsets/{of.id}/adjudicate"
    page = parse((await client.get(f"{base}/0", headers=headers)).text)
    assert "The set is blind" in page.line and "words of syntax" not in page.line
    assert "The set is blind" in parse((await client.get(base, headers=headers)).text).line
    async with transaction(create_sessionmaker(engine)) as session:
        await label(session, made.sae, 0, linus, "mine", "names")
    page = parse((await client.get(f"{base}/0", headers=headers)).text)
    assert len(page.all("form", cls="votes")) == 4 and page.all("form", cls="decide-form") == []
    refused = await client.post(f"{base}/0", data={"explanation": "mine"}, headers=headers)
    assert refused.status_code == 403
