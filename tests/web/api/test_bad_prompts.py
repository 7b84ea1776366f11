"""Prompts that no model can read, over every route that takes one: a sentence each, and the next prompt is answered."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.queries.models import NO_WEIGHTS
from app.queries.saes import SaeDetail
from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary, make_dictionary, publish
from tests.tiny import BOS
from tests.web.api.problems import problem
from tests.web.probing import probing_site

pytestmark = pytest.mark.read_only

Body = dict[str, object]
Ask = Callable[[str], tuple[str, Body]]

ABLATION = [{"feature": 1, "op": "ablate"}]
ROUTES: dict[str, Ask] = {
    "probe": lambda text: ("probe", {"text": text}),
    "probe, texts": lambda text: ("probe", {"texts": [text]}),
    "probe, diff": lambda text: ("probe", {"texts": ["Some words", text], "diff": True}),
    "attribute": lambda text: ("attribute", {"text": text}),
    "generate": lambda text: ("generate", {"text": text, "interventions": ABLATION, "max_new_tokens": 1}),
}
ALONE = [name for name in ROUTES if name != "probe, texts"]
"""Routes where a text that is too long is refused; among many texts it gets a row that says why."""


async def ask(client: httpx.AsyncClient, sae: SaeDetail, asked: tuple[str, Body]) -> httpx.Response:
    route, body = asked
    content = json.dumps(body)  # which escapes a lone surrogate, where httpx would refuse to send it
    headers = {"Content-Type": "application/json"}
    return await client.post(f"/api/v1/saes/{sae.slug}/{route}", content=content, headers=headers)


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize(("text", "says"), [("", "text is empty"), ("half \ud83e", "half of a surrogate pair")])
async def test_a_text_that_is_no_text_is_refused(
    probing: httpx.AsyncClient, published: SaeDetail, name: str, text: str, says: str
) -> None:
    detail = problem(await ask(probing, published, ROUTES[name](text)), 422)["detail"]
    assert says in detail
    assert (await ask(probing, published, ROUTES[name]("Some words"))).status_code == 200


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("text", ["🧠" * 100_000, "word " * 101], ids=["emoji", "words"])
async def test_a_text_over_the_limit_is_refused(
    probing: httpx.AsyncClient, published: SaeDetail, name: str, text: str
) -> None:
    detail = problem(await ask(probing, published, ROUTES[name](text)), 413)["detail"]
    assert "at most" in detail or "the most that is taken" in detail
    assert (await ask(probing, published, ROUTES[name]("Some words"))).status_code == 200


async def test_among_many_texts_one_over_the_limit_says_so(probing: httpx.AsyncClient, published: SaeDetail) -> None:
    response = await ask(probing, published, ("probe", {"texts": ["🧠" * 20_000, "Some words"]}))
    long, short = response.json()["results"]
    assert "at most 100" in long["error"]
    assert short["error"] is None
    assert short["features"]


@pytest.mark.parametrize("name", ROUTES)
async def test_a_lone_bos_is_read(probing: httpx.AsyncClient, published: SaeDetail, name: str) -> None:
    answer = (await ask(probing, published, ROUTES[name](BOS))).json()
    if name == "probe":
        assert [token["text"] for token in answer["tokens"]] == [BOS]
        assert answer["features"] == []


@pytest.mark.own_database
@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("what", ["model", "sae"])
async def test_files_that_are_gone_are_said_to_be(
    engine: AsyncEngine, settings: Settings, tmp_path: Path, name: str, what: str
) -> None:
    made = make_dictionary(tmp_path / "home")
    sae = await publish(engine, made)
    folder = tmp_path / "home" / "model" if what == "model" else made.settings.artifacts / made.row.artifact
    shutil.rmtree(folder)
    async with probing_site(made, settings) as client:
        detail = problem(await ask(client, sae, ROUTES[name]("Some words")), 503)["detail"]
    assert f"{sae.slug} cannot be probed" in detail
    assert str(tmp_path) not in detail  # paths of the server are in the log


@pytest.mark.own_database
@pytest.mark.parametrize("name", ROUTES)
async def test_an_sae_without_weights_says_so(
    engine: AsyncEngine, dictionary: Dictionary, settings: Settings, name: str
) -> None:
    sae = await publish(engine, dictionary)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"UPDATE sae SET weights_sha256 = '{NO_WEIGHTS}' || id")
    async with probing_site(dictionary, settings) as client:
        detail = problem(await ask(client, sae, ROUTES[name]("Some words")), 409)["detail"]
    assert "imported as statistics only" in detail
