"""Features by example, whole: site, inference service, model, SAE and index are real."""

import json
from typing import Any

import httpx
import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from tests.app.inference.dictionaries import CORPUS, SLUG, Dictionary, activations
from tests.factories import Synthetic, add_label, make_sae
from tests.web.api.problems import problem

pytestmark = pytest.mark.read_only

TEXT = "It was the best of times, it was the worst of times — and <b>nothing</b> more.\n"
URL = f"/api/v1/saes/{SLUG}/features/by-example"
CHOSEN = [3, 7, 12]


@pytest.fixture(scope="module")
def densities(dictionary: Dictionary) -> list[float]:
    indexed = torch.cat([activations(dictionary, text) for text in CORPUS])
    return [float(density) for density in (indexed > 0).double().mean(dim=0)]


async def asked(client: httpx.AsyncClient, **body: Any) -> Any:
    response = await client.post(URL, json={"text": TEXT, "max_density": None, "limit": 200} | body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_features_rank_by_their_mean_percentile_on_the_chosen_tokens(
    probing: httpx.AsyncClient, dictionary: Dictionary, densities: list[float]
) -> None:
    answer = await asked(probing, tokens=CHOSEN)
    probe = (await probing.post(f"/api/v1/saes/{SLUG}/probe", json={"text": TEXT, "top_k": 64})).json()
    means: dict[int, float] = {}
    for position in CHOSEN:
        for entry in probe["per_token"][position]:
            means[entry["index"]] = means.get(entry["index"], 0) + entry["percentile"] / len(CHOSEN)

    assert [token["id"] for token in answer["tokens"]] == [token["id"] for token in probe["tokens"]]
    assert answer["chosen"] == CHOSEN
    features = answer["features"]
    assert (answer["active"], answer["within"], len(features)) == (len(means), len(means), len(means))
    assert {feature["index"]: pytest.approx(feature["percentile"]) for feature in features} == means
    percentiles = [feature["percentile"] for feature in features]
    assert percentiles == sorted(percentiles, reverse=True)
    expected = activations(dictionary, TEXT)
    for feature in features:
        index = feature["index"]
        assert feature["activations"] == pytest.approx(expected[CHOSEN, index].tolist(), rel=1e-4)
        assert feature["density"] == pytest.approx(densities[index])


async def test_without_a_choice_every_counted_token_is_used(probing: httpx.AsyncClient) -> None:
    answer = await asked(probing)
    counted = [place for place, token in enumerate(answer["tokens"]) if not token["special"]]
    assert answer["chosen"] == counted
    assert await asked(probing, tokens=[*counted[::-1], counted[0]]) == answer


async def test_density_is_filtered_before_the_cut(probing: httpx.AsyncClient, densities: list[float]) -> None:
    whole = (await asked(probing, tokens=CHOSEN))["features"]
    low, high = sorted(densities)[10], sorted(densities)[40]
    within = [feature for feature in whole if low <= densities[feature["index"]] <= high]
    assert whole[0] not in within or whole[1] not in within  # or else there is nothing to see here
    answer = await asked(probing, tokens=CHOSEN, min_density=low, max_density=high, limit=3)
    assert answer["features"] == within[:3]
    assert (answer["active"], answer["within"]) == (len(whole), len(within))


async def test_the_default_density_is_at_most_a_hundredth(probing: httpx.AsyncClient, densities: list[float]) -> None:
    answer = (await probing.post(URL, json={"text": TEXT})).json()
    assert all(densities[feature["index"]] <= 0.01 for feature in answer["features"])
    assert answer["within"] < answer["active"]


@pytest.mark.own_database
async def test_features_have_their_labels(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary
) -> None:
    index = (await asked(probing, limit=1))["features"][0]["index"]
    async with transaction(create_sessionmaker(engine)) as session:
        await add_label(session, dictionary.row, index, "what is <b>bold</b>")
    assert (await asked(probing, limit=1))["features"][0]["label"] == "what is <b>bold</b>"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"text": ""}, 422, "empty"),
        ({"text": "half \ud83e"}, 422, "half of a surrogate pair"),
        ({"text": "times " * 150}, 413, "at most 100"),
        ({"tokens": [0]}, 422, "Token 0 is special"),
        ({"tokens": [10_000]}, 422, "outside the text, whose tokens are 0 to"),
        ({"tokens": [-1]}, 422, "outside the text"),
        ({"tokens": ["x"]}, 422, "“tokens.0” in the body"),
        ({"min_density": 0.1, "max_density": 0.01}, 422, "swap the two"),
        ({"min_density": 0.1, "max_density": 7}, 422, "“max_density” in the body"),
        ({"limit": 0}, 422, "“limit” in the body"),
        ({"limit": 1_000}, 422, "“limit” in the body"),
        ({"mode": "fast"}, 422, "“mode” in the body"),
    ],
)
async def test_bad_input_is_explained(probing: httpx.AsyncClient, body: dict[str, Any], status: int, says: str) -> None:
    content = json.dumps({"text": TEXT} | body)
    response = await probing.post(URL, content=content, headers={"Content-Type": "application/json"})
    assert says in problem(response, status)["detail"]


@pytest.mark.own_database
async def test_a_missing_index_or_inference_is_explained(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine
) -> None:
    await make_sae(engine, slug="bare", publish=False)
    response = await client.post("/api/v1/saes/bare/features/by-example", json={"text": TEXT})
    assert "no published index" in problem(response, 404)["detail"]
    response = await client.post(f"/api/v1/saes/{made.sae.slug}/features/by-example", json={"text": TEXT})
    assert "inference process is not answering" in problem(response, 503)["detail"]
