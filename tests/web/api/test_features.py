import csv
import io
import json

import httpx
import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from sae_core.statistics.spec import PLAIN, RANKED_LISTS
from tests.factories import Synthetic, add_label, make_sae
from tests.web.api.problems import problem

pytestmark = pytest.mark.read_only


def url(made: Synthetic, path: str = "") -> str:
    return f"/api/v1/saes/{made.sae.slug}/features{path}"


async def test_statistics_are_the_true_ones(client: httpx.AsyncClient, made: Synthetic) -> None:
    for index in (0, 9, 22):
        f = made.features.activations[index]
        feature = (await client.get(url(made, f"/{index}"))).json()
        assert feature["index"] == index
        assert feature["tokens"] == made.features.tokens
        assert feature["count"] == np.count_nonzero(f)
        assert feature["density"] == pytest.approx(np.count_nonzero(f) / made.features.tokens)
        assert feature["max"] == pytest.approx(f.max())
        assert feature["mean"] == pytest.approx(f[f > 0].mean())
        assert sum(feature["histogram"]["counts"]) == feature["count"]
        assert len(feature["histogram"]["edges"]) == 51
        assert feature["histogram"]["edges"][-1] == pytest.approx(f.max())
        assert sum(token["share"] for token in feature["top_tokens"]) <= 1 + 1e-6
        vocabulary = made.corpus.vocabulary
        for token in feature["top_tokens"] + feature["promoted"] + feature["suppressed"]:
            assert token["text"] == vocabulary[token["id"]].decode(errors="replace")
        assert len(feature["promoted"]) == len(feature["suppressed"]) == 15
        assert feature["near"][0]["cosine"] >= feature["near"][-1]["cosine"]
        assert {"index", "label", "pmi", "joint", "given_this", "given_other"} == feature["coactive"][0].keys()


async def test_every_declared_statistic_is_a_field(client: httpx.AsyncClient, made: Synthetic) -> None:
    feature = (await client.get(url(made, "/0"))).json()
    declared = {statistic.name for statistic in PLAIN} | {ranked.name for ranked in RANKED_LISTS}
    assert declared | {"index", "tokens", "labels", "effect"} == set(feature)


async def test_a_dead_feature_has_statistics_too(client: httpx.AsyncClient, made: Synthetic) -> None:
    feature = (await client.get(url(made, "/23"))).json()
    assert feature["health"] == ["dead"]
    assert (feature["density"], feature["count"], feature["max"], feature["mean"]) == (0, 0, 0, 0)
    assert (await client.get(url(made, "/23/examples"))).json() == {"examples": []}


@pytest.mark.own_database
async def test_a_feature_has_its_labels(client: httpx.AsyncClient, made: Synthetic, session: AsyncSession) -> None:
    await add_label(session, made.sae, 3, "words of law")
    await session.commit()
    assert (await client.get(url(made, "/3"))).json()["labels"][0]["explanation"] == "words of law"
    listed = (await client.get(url(made), params={"label": "labelled"})).json()
    assert [(row["index"], row["label"]) for row in listed["features"]] == [(3, "words of law")]
    neighbour = next(i for i in range(24) if i != 3 and 3 in made.features.rows()[i].near)
    near = (await client.get(url(made, f"/{neighbour}"))).json()["near"]
    assert next(other["label"] for other in near if other["index"] == 3) == "words of law"


@pytest.mark.parametrize("index", ["24", "-1", "99999999999999999999999"])
async def test_a_feature_out_of_range_is_told_the_range(client: httpx.AsyncClient, made: Synthetic, index: str) -> None:
    for path in ("", "/examples", "/labels"):
        found = problem(await client.get(url(made, f"/{index}{path}")), 404)
        assert "0 to 23" in found["detail"]


async def test_a_feature_that_is_not_a_number_is_refused(client: httpx.AsyncClient, made: Synthetic) -> None:
    assert "“index” in the address" in problem(await client.get(url(made, "/first")), 422)["detail"]


async def test_examples_are_whole_sequences(client: httpx.AsyncClient, made: Synthetic) -> None:
    examples = (await client.get(url(made, "/0/examples"))).json()["examples"]
    bands = [(example["band"], example["rank"]) for example in examples]
    assert bands == sorted(bands)
    assert {band for band, _ in bands} == {0, 1, 2, 3, 4, 5}
    for example in examples:
        sequence = example["sequence"]
        f = made.features.activations[0, sequence]
        assert [token["id"] for token in example["tokens"]] == made.corpus.token_ids[sequence].tolist()
        assert [token["activation"] for token in example["tokens"]] == pytest.approx(f.tolist())
        assert example["tokens"][example["position"]]["activation"] == pytest.approx(example["activation"])
        raw = b"".join(made.corpus.vocabulary[token["id"]] for token in example["tokens"])
        assert "".join(token["text"] for token in example["tokens"]) == raw.decode(errors="replace")
    assert [e["activation"] for e in examples if e["band"] == 0] == sorted(
        (e["activation"] for e in examples if e["band"] == 0), reverse=True
    )


async def test_examples_of_one_band(client: httpx.AsyncClient, made: Synthetic) -> None:
    examples = (await client.get(url(made, "/0/examples"), params={"band": 5, "limit": 2})).json()["examples"]
    assert [(example["band"], example["rank"]) for example in examples] == [(5, 0), (5, 1)]
    problem(await client.get(url(made, "/0/examples"), params={"band": 6}), 422)
    problem(await client.get(url(made, "/0/examples"), params={"limit": 0}), 422)


@pytest.mark.parametrize("sort", ["density", "max", "index"])
async def test_pages_hold_every_feature_once_in_order(client: httpx.AsyncClient, made: Synthetic, sort: str) -> None:
    seen, cursor = [], None
    while True:
        params = {"sort": sort, "limit": 7} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(url(made), params=params)).json()
        assert page["total"] == 24
        seen += page["features"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(row["index"] for row in seen) == list(range(24))
    keys = [row[sort] for row in seen]
    assert keys == sorted(keys, reverse=sort != "index")


async def test_filters(client: httpx.AsyncClient, made: Synthetic) -> None:
    page = (await client.get(url(made), params={"min_density": 0.01, "max_density": 0.05})).json()
    expected = [row.number for row in made.features.rows() if 0.01 <= row.density <= 0.05]
    assert sorted(row["index"] for row in page["features"]) == expected
    found = (await client.get(url(made), params={"q": "violin"})).json()
    assert 0 in [row["index"] for row in found["features"]]


@pytest.mark.parametrize(
    "params",
    [
        {"sort": "beauty"},
        {"limit": 0},
        {"limit": 10**9},
        {"min_density": "nan"},
        {"max_density": 2},
        {"cursor": "nonsense"},
        {"label": "maybe"},
        {"q": "x" * 10_000},
        {"q": "\0"},
    ],
)
async def test_a_wrong_filter_is_explained(client: httpx.AsyncClient, made: Synthetic, params: dict[str, str]) -> None:
    problem(await client.get(url(made), params=params), 422)


@pytest.mark.own_database
async def test_without_an_index_features_are_not_found(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    made = await make_sae(engine, publish=False)
    assert (await client.get(url(made))).json() == {
        "features": [],
        "total": 0,
        "next_cursor": None,
        "corrected": None,
    }
    for path in ("/0", "/0/examples"):
        assert "no published index" in problem(await client.get(url(made, path)), 404)["detail"]


@pytest.mark.own_database
async def test_filters_narrow_the_list(client: httpx.AsyncClient, made: Synthetic, session: AsyncSession) -> None:
    await add_label(session, made.sae, 3, "words of law", author="ada", categories=("law",))
    await session.commit()
    rows = made.features.rows()

    async def listed(**query: str) -> set[int]:
        answer = (await client.get(url(made), params=query)).json()
        assert answer["total"] == len(answer["features"])
        return {feature["index"] for feature in answer["features"]}

    assert await listed(health="dead") == {row.number for row in rows if "dead" in row.health}
    assert await listed(topic=made.features.topic_names[1]) == {row.number for row in rows if 1 in row.topics}
    assert await listed(author="ada", category="law") == {3}
    assert await listed(author="ada", category="music") == set()
    for query in ({"health": "ill"}, {"topic": "Astrology"}, {"min_max": "-1"}, {"min_max": "2", "max_max": "1"}):
        problem(await client.get(url(made), params=query), 422)


@pytest.mark.own_database
async def test_a_download_holds_what_all_pages_hold(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    made = await make_sae(engine, slug="wide", features=250)  # more than one page of 200
    query = {"sort": "index", "min_density": "0.001"}
    listed, cursor = [], None
    while True:
        page = (await client.get(url(made), params=query | ({"cursor": cursor} if cursor else {}))).json()
        listed += page["features"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(listed) > 200

    answer = await client.get(url(made, "/export"), params=query | {"format": "json"})
    assert answer.headers["content-disposition"] == 'attachment; filename="wide-features.json"'
    assert answer.json() == listed
    lines = (await client.get(url(made, "/export"), params=query | {"format": "jsonl"})).text.splitlines()
    assert [json.loads(line) for line in lines] == listed
    table = list(csv.DictReader(io.StringIO((await client.get(url(made, "/export"), params=query)).text)))
    assert [int(row["index"]) for row in table] == [feature["index"] for feature in listed]
    texts = ["; ".join(token["text"] for token in feature["top_tokens"]) for feature in listed]
    assert [row["top_tokens"].removeprefix("'") for row in table] == texts
    assert [row["health"] for row in table] == ["; ".join(feature["health"]) for feature in listed]
    assert "histogram" not in table[0]
    assert not any(cell.startswith(("[", "{")) for row in table for cell in row.values())


async def test_a_download_of_nothing_is_empty(client: httpx.AsyncClient, made: Synthetic) -> None:
    for format, text in (("json", "[]\n"), ("jsonl", ""), ("csv", "")):
        answer = await client.get(url(made, "/export"), params={"format": format, "token": "no such token"})
        assert (answer.status_code, answer.text) == (200, text)
    problem(await client.get(url(made, "/export"), params={"format": "xlsx"}), 422)
    problem(await client.get(url(made, "/export"), params={"min_density": "2"}), 422)


@pytest.mark.own_database
async def test_a_label_is_not_exported_as_a_formula(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    await add_label(session, made.sae, 3, '=HYPERLINK("http://example.org")')
    await session.commit()
    text = (await client.get(url(made, "/export"), params={"label": "labelled"})).text
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["label"] == '\'=HYPERLINK("http://example.org")'
