"""Suggestions on a feature's page and in lists: apart from labels, as plain text, one click from a person's form."""

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.factories import Synthetic, add_label
from tests.suggestions import HOSTILE, suggest_some
from tests.web.html import parse

pytestmark = pytest.mark.own_database


@pytest.fixture
async def suggested(made: Synthetic, session: AsyncSession) -> list[int]:
    return await suggest_some(session, made)


async def test_a_feature_shows_suggestions_beside_its_labels(
    client: httpx.AsyncClient, base: str, suggested: list[int]
) -> None:
    answer = await client.get(f"{base}/features/3")
    assert "<script>alert" not in answer.text
    page = parse(answer.text)
    assert "Nobody has labelled it yet" in page.one("div", id="feature-title").text
    assert HOSTILE not in page.one("section", id="labels").text
    section = page.one("section", id="suggestions")
    texts = [text.text for text in section.all("p", cls="suggestion-text")]
    assert texts[0] == HOSTILE
    assert texts[1].startswith(("Mostly", "Many different tokens")), "a sentence from statistics is always there"
    assert "By machines; not counted as labels." in section.text
    assert "detection 0.80 (another feature’s: 0.50)" in section.text
    assert "balancedaccuracy0.800.70–0.900.50" in "".join(section.text.split())
    assert "Not tested: The answer rates 3 of 20 texts." in section.text
    assert not [link for link in section.all("a") if not link["href"].startswith("/")]
    failed = parse((await client.get(f"{base}/features/4")).text).one("section", id="suggestions")
    assert "No suggestion: The answer was cut off." in failed.text


async def test_one_click_puts_a_suggestion_into_the_form_and_the_label_is_a_persons(
    client: httpx.AsyncClient, base: str, suggested: list[int]
) -> None:
    page = parse((await client.get(f"{base}/features/3")).text)
    first, second = page.one("section", id="suggestions").all("a", cls="text-button")
    assert first["data-fill"] == HOSTILE
    assert first["href"] == f"{base}/features/3?label=1&suggestion={suggested[0]}#labels"
    assert second["href"] == f"{base}/features/3?label=1&suggestion=statistics#labels"
    form = parse((await client.get(first["href"])).text)
    assert form.one("textarea", id="explanation").text == HOSTILE
    assert "open" not in form.one("section", id="suggestions").all("details")[0].attributes, (
        "whoever labels judges first"
    )
    unknown = parse((await client.get(f"{base}/features/3?label=1&suggestion=999")).text)
    assert unknown.one("textarea", id="explanation").text == ""
    elsewhere = parse((await client.get(f"{base}/features/5?label=1&suggestion={suggested[0]}")).text)
    assert elsewhere.one("textarea", id="explanation").text == "", "a suggestion is of one feature"
    await client.post(f"{base}/features/3/labels", data={"explanation": HOSTILE})
    await client.post(f"{base}/features/3/labels", data={"explanation": "Rivers", "version": "1"})
    (label,) = (await client.get(f"/api/v1{base}/features/3/labels")).json()["labels"]
    assert (label["author"], label["explanation"]) == ("ada", "Rivers")
    history = (await client.get(f"/api/v1/labels/{label['id']}/history")).json()["history"]
    assert [(revision["explanation"], revision["suggestion_id"]) for revision in history] == [
        ("Rivers", None),
        (HOSTILE, suggested[0]),
    ]
    page = parse((await client.get(f"{base}/features/3")).text)
    assert page.one("section", id="labels").text.count("in the words of a suggestion") == 1


async def test_a_list_shows_a_suggestion_only_where_nobody_has_labelled(
    client: httpx.AsyncClient, base: str, made: Synthetic, session: AsyncSession, suggested: list[int]
) -> None:
    async def shown() -> dict[str, str]:
        page = parse((await client.get(f"{base}/features?sort=index")).text)
        rows = page.all("a", cls="feature-row")
        return {
            row.one("span", cls="feature-number").text: span[0].text
            for row in rows
            if (span := row.all("span", cls="feature-suggestion"))
        }

    assert await shown() == {"3": f"Suggestion: {HOSTILE}", "5": "Suggestion: Mostly “river”"}
    assert not parse((await client.get(f"{base}/features?label=labelled")).text).all("a", cls="feature-row")
    await add_label(session, made.sae, 3, "Rivers")
    await session.commit()
    assert await shown() == {"5": "Suggestion: Mostly “river”"}
