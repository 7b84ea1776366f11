"""Pages of blind tests: made from a label, answered as a form, with a result beside the label."""

from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.queries.blind_tests import get_items
from app.settings import Settings
from tests.blind import FEW_TOKENS, OPTIONS, keep_store
from tests.factories import Synthetic, add_label
from tests.web.html import parse
from tests.web.site import SECRET, site

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture(scope="session")
def made_options() -> dict[str, int]:
    return OPTIONS


@pytest.fixture
async def client(made: Synthetic, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A site whose inference process has the activation store. Its local user is ada."""
    settings = settings.model_copy(update={"inference_secret": SecretStr(SECRET)})
    keep_store(made, settings.artifacts)
    async with site(settings, inference=settings) as client:
        yield client


async def test_a_person_tests_somebody_elses_label(
    client: httpx.AsyncClient, made: Synthetic, sessionmaker: Sessions
) -> None:
    text = "<b>Music</b> & instruments"
    async with transaction(sessionmaker) as session:
        label = await add_label(session, made.sae, FEW_TOKENS, text, author="grace")
    feature = f"/saes/{made.sae.slug}/features/{FEW_TOKENS}"
    [form] = parse((await client.get(feature)).text).all("form", cls="label-test")
    assert form["action"] == f"/labelsets/{label.label_set_id}/tests"
    sent = await client.post(form["action"], data={"label": label.id, "kind": "fuzzing"})
    assert sent.status_code == 303
    address = sent.headers["Location"]

    page = parse((await client.get(address)).text)
    assert page.one("q").text == text
    async with transaction(sessionmaker) as session:
        items = await get_items(session, 1)
    count = len(page.all("fieldset", cls="blind-item"))
    assert count == len(items) >= 10
    assert len(page.all("mark")) == sum(len(item.shown[0]["marked"]) for item in items)
    assert not [each for each in page.all("a") if "/features/" in each["href"]]
    truth = {f"item-{number}": str(item.truth) for number, item in enumerate(items)}

    incomplete = await client.post(address, data={name: truth[name] for name in list(truth)[:-1]})
    assert incomplete.status_code == 422
    again = parse(incomplete.text)
    assert f"1 of {count} are not answered" in again.one("p", role="alert").text
    assert sum("checked" in each.attributes for each in again.all("input", type="radio")) == count - 1
    assert not again.all("b", cls="good")

    assert (await client.post(address, data=truth)).status_code == 303
    result = await client.get(address)
    assert result.headers["Cache-Control"] == "no-store"
    shown = parse(result.text)
    assert shown.one("dl", cls="blind-measures").text.split()[2] == "1.00"
    assert len(shown.all("b", cls="good")) == count
    [_, line] = parse((await client.get(feature)).text).one("div", cls="label-scores").all("p")
    assert "1.00" in line.text and "by ada" in " ".join(line.text.split())
    listed = parse((await client.get(form["action"])).text)
    assert "you have answered" in listed.text
    assert listed.one("a", cls="blind-test")["href"] == address


async def test_ones_own_label_is_for_others_to_test(
    client: httpx.AsyncClient, made: Synthetic, sessionmaker: Sessions
) -> None:
    async with transaction(sessionmaker) as session:
        label = await add_label(session, made.sae, FEW_TOKENS, "words", author="ada")
    sent = await client.post(f"/labelsets/{label.label_set_id}/tests", data={"label": label.id})
    page = parse((await client.get(sent.headers["Location"])).text)
    assert "send them the address" in page.text
    assert not page.all("button", type="submit")
    refused = await client.post(sent.headers["Location"], data={f"item-{number}": "1" for number in range(20)})
    assert refused.status_code == 403
    assert "You wrote this label" in refused.text


async def test_an_intruder_test_needs_no_label(
    client: httpx.AsyncClient, made: Synthetic, sessionmaker: Sessions
) -> None:
    async with transaction(sessionmaker) as session:
        label = await add_label(session, made.sae, 0, "words", author="grace")
    tests = f"/labelsets/{label.label_set_id}/tests"
    sent = await client.post(tests, data={"kind": "intruder", "feature": FEW_TOKENS})
    page = parse((await client.get(sent.headers["Location"])).text)
    items = page.all("fieldset", cls="blind-item")
    assert all(len(item.all("input", type="radio")) == 5 for item in items)
    answers = {f"item-{number}": "4" for number in range(len(items))}
    assert (await client.post(sent.headers["Location"], data=answers)).status_code == 303
    assert "guessing gives 0.20" in (await client.get(sent.headers["Location"])).text
    assert "features/13" not in (await client.get(tests)).text
    refused = await client.post(tests, data={"kind": "intruder", "feature": 23})  # dead
    assert refused.status_code == 422
    assert "Too few held-out snippets" in parse(refused.text).one("p", role="alert").text
    assert (await client.post(tests, data={"kind": "intruder", "feature": 99})).status_code == 404
    assert (await client.get("/tests/99")).status_code == 404
