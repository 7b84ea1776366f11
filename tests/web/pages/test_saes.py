from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.tables import Sae
from tests.app.services.test_interpretability import stored
from tests.factories import Synthetic, add_run, make_sae
from tests.web.html import parse


async def test_overview_says_what_it_is_and_where_it_comes_from(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    run = await add_run(session, made.sae)
    await session.commit()
    response = await client.get(base)
    assert response.status_code == 200
    page = parse(response.text)
    text = " ".join(page.one("main").text.split())
    assert "24 features of the residual stream after layer 1" in text
    for said in ("CC0-1.0", "Nobody wrote these sentences.", "by ada", "k 4", made.sae.weights_sha256[:12]):
        assert said in text
    assert {
        figure["data-metric"] for figure in page.all("figure", cls="chart") if "data-metric" in figure.attributes
    } == {
        "loss",
        "explained_variance",
        "l0",
        "dead_fraction",
    }
    assert page.all("a", href=f"/runs/{run.id}")
    for door in ("/features", "/probe", "/features/random"):
        assert page.all("a", href=base + door)


async def test_health_counts_agree_with_the_features(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    page = parse((await client.get(base)).text)
    rows = {
        row.one("th").children[0]: row.one("td").text
        for row in page.one("table", aria_labelledby="health").one("tbody").all("tr")
    }
    assert rows["dead"] == str(sum(row.count == 0 for row in made.features.rows()))
    dead = page.one("table", aria_labelledby="health").all("a")[0]
    assert dead["href"] == f"{base}/features?health=dead"
    listed = parse((await client.get(dead["href"])).text)
    assert len(listed.all("a", cls="feature-row")) == int(dead.text)


async def test_without_an_index_it_says_how_to_make_one(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug="bare", publish=False)
    page = parse((await client.get("/saes/bare")).text)
    assert page.one("code", cls="command").text == "seesae index bare --corpus CORPUS"
    assert not page.all("figure", cls="chart")


@pytest.mark.parametrize(
    "path", ["/saes/nix", "/saes/nix/features", "/saes/nix/features/0", "/saes/nix/probe", "/saes/a%00b"]
)
async def test_the_page_of_an_unknown_sae_links_to_all_saes(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    page = parse(response.text)
    assert page.one("h1").text == "Not found"
    assert page.one("main").all("a", href="/")


async def test_an_imported_transcoder_says_where_it_is_from_and_what_was_done(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    imported = {
        "source": "org/<b>repo</b>",
        "revision": "a" * 40,
        "format": "sparsify",
        "notes": ["It was <i>turned</i>."],
    }
    values: dict[str, Any] = {"hook": "mlp_in.1", "hook_out": "mlp_out.1", "config": {"imported": imported}}
    intervals = {"explained_variance": [0.79, 0.83]}
    values["metrics"] = {"explained_variance": 0.812, "tokens": 1000, "dense": 3, "intervals": intervals}
    await session.execute(update(Sae).where(Sae.id == made.sae.id).values(**values))
    await session.commit()
    page = parse((await client.get(base)).text)
    text = " ".join(page.one("main").text.split())
    assert "Transcoder" in text
    assert "the input of layer 1's MLP, rebuilding the output of layer 1's MLP" in text
    assert "org/<b>repo</b> at aaaaaaaaaaaa, in sparsify's format" in text
    assert "It was <i>turned</i>." in text
    assert "0.812 0.790 – 0.830" in text
    assert "95 % bootstrap intervals" in text


async def test_the_map_is_a_page_of_its_own(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    page = parse((await client.get(f"{base}/map?axes=rate&colour=labels")).text)
    assert page.one("div", cls="map")["data-axes"] == "rate"
    assert [option["value"] for option in page.all("option") if "selected" in option.attributes] == ["labels"]
    assert (await client.get(f"{base}/map?axes=round")).status_code == 422
    assert parse((await client.get(base)).text).all("a", href=f"{base}/map")


async def test_without_an_index_there_is_no_map(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug="bare", publish=False)
    page = parse((await client.get("/saes/bare/map")).text)
    assert page.one("code", cls="command").text == "seesae index bare --corpus CORPUS"
    assert not page.all("canvas")


async def test_a_probed_sae_says_what_its_features_are_better_at(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(base)).text)
    section = page.one("section", aria_labelledby="probing")
    assert [one.text for one in section.all("p") if one.text.startswith(("Compared", "The plain"))] == [
        "Compared with a random dictionary, its features are better at topics (+0.10, 0.05 to 0.15); not shown to be "
        "better or worse at sentiment (+0.02, −0.08 to 0.10).",
        "Compared with as many single channels of the activations, its features are better at topics (+0.10, 0.05 to "
        "0.15), sentiment (+0.10, 0.05 to 0.15).",
        "Compared with all of the activations, its features are worse at topics (−0.10, −0.15 to −0.05), sentiment "
        "(−0.20, −0.30 to −0.10).",
        "The plain activations are better everywhere: use features to see, not to classify.",
    ]
    chart = section.one("figure", cls="intervals")
    named = [one.one("span", cls="interval-name").text.split() for one in chart.all("li", cls="strong")]
    assert named == [["topics", "40", "test", "texts"]]
    accuracy, auroc = section.all("table")
    for table in (accuracy, auroc):
        assert len(table.all("tbody")) == 2
        assert [len(row.all("td")) for row in table.all("tr") if row.all("td")] == [3, 3, 3, 1] * 2
    assert "0.750 0.70 – 0.80" in " ".join(accuracy.text.split())


async def test_an_sae_that_was_not_probed_says_how(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    await session.execute(update(Sae).values(metrics={"l0": 31.7, "explained_variance": 0.8}))
    await session.commit()
    section = parse((await client.get(base)).text).one("section", aria_labelledby="unmeasured")
    command = f"seesae evaluate {made.sae.slug} --probing builtin"
    assert command in [code.text for code in section.all("code", cls="command")]


async def test_what_labels_predict_is_shown_beside_its_floor(
    client: httpx.AsyncClient, base: str, session: AsyncSession
) -> None:
    found = stored(fuzzing=0.7, fuzzing_interval=[0.6, 0.8], fuzzing_floor=0.5, fuzzing_labels=9)
    await session.execute(update(Sae).values(metrics={"l0": 31.7, "explained_variance": 0.8, **found}))
    await session.commit()
    section = parse((await client.get(base)).text).one("section", aria_labelledby="interpretability")
    assert "better than labels of other features, which score 0.55" in section.text
    rows = [" ".join(row.text.split()) for row in section.one("figure", cls="intervals").all("li")[:-1]]
    assert rows == [
        "in which texts 10 labels 0.75, 0.70 to 0.80",
        "labels of other features the same texts 0.55",
        "on which tokens 9 labels 0.70, 0.60 to 0.80",
        "labels of other features the same texts 0.50",
    ]
    assert "12 of 60 live features were drawn at random; small labelled 11 of them" in section.text


async def test_an_sae_whose_labels_nobody_tested_says_how(
    client: httpx.AsyncClient, made: Synthetic, base: str
) -> None:
    section = parse((await client.get(base)).text).one("section", aria_labelledby="unmeasured")
    commands = [code.text for code in section.all("code", cls="command")]
    assert commands == [f"seesae evaluate {made.sae.slug} {what}" for what in ("--interpret 64", "--absorption")]
    assert "set SEESAE_LLM_URL and SEESAE_LLM_MODEL" in " ".join(section.text.split())


async def test_absorption_says_what_was_found_or_why_not(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    section = parse((await client.get(base)).text).one("section", aria_labelledby="unmeasured")
    assert section.all("code", cls="command")[-1].text == f"seesae evaluate {made.sae.slug} --absorption"
    spelling = {"accuracy": 0.754, "low": 0.7, "high": 0.8, "words": 256, "spells": False}
    found = {"threshold": 0.8, "spelling": spelling, "reason": None, "sae": None, "random": None}
    await session.execute(update(Sae).values(metrics={"l0": 31.7, "absorption": found}))
    await session.commit()
    section = parse((await client.get(base)).text).one("section", aria_labelledby="absorption")
    said = section.text.replace("\u202f", " ")
    assert "the model cannot spell: asked for the first letter of 256 words, it tells 75 % (70 % to 80 %)" in said
