"""Saved edits through the API, with files that a real inference service writes."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_core import apply_edits
from sae_core.interventions import Intervention, Site, intervene, load_edit
from tests.app.inference.dictionaries import HOOK, SLUG, Dictionary
from tests.edits import TEXT, body, save
from tests.web.api.problems import problem


async def test_an_edit_is_saved_listed_read_changed_and_deleted(probing: httpx.AsyncClient) -> None:
    made = await save(probing, notes=" Why? ", author="grace")
    assert (made["name"], made["title"], made["author"], made["notes"]) == (
        "best-of-times",
        "Best of times",
        "grace",
        "Why?",
    )
    assert made["saes"] == [SLUG]
    assert made["interventions"][0]["sae"] == SLUG
    assert made["prompts"][0]["after"] == ", it was <b>spring</b>"
    assert made["measured"] is None
    assert (await probing.get("/api/v1/edits/best-of-times")).json() == made
    second = await save(probing)
    assert second["name"] == "best-of-times-2"
    listed = (await probing.get("/api/v1/edits", params={"limit": 1, "sae": SLUG})).json()
    assert [edit["name"] for edit in listed["edits"]] == ["best-of-times-2"]
    older = (await probing.get("/api/v1/edits", params={"cursor": listed["next_cursor"]})).json()
    assert [edit["name"] for edit in older["edits"]] == ["best-of-times"]
    assert older["next_cursor"] is None
    fact = {"prompt": "It was the", "expected": "best", "forbidden": "worst"}
    changed = await probing.put(
        "/api/v1/edits/best-of-times", json={"title": "Renamed", "notes": "", "checks": {"prompts": [fact]}}
    )
    assert changed.status_code == 200, changed.text
    after = changed.json()
    assert (after["name"], after["title"], after["checks"]["prompts"]) == ("best-of-times", "Renamed", [fact])
    assert after["interventions"] == made["interventions"], "what it does never changes"
    assert (await probing.delete("/api/v1/edits/best-of-times")).status_code == 204
    gone = problem(await probing.get("/api/v1/edits/best-of-times"), 404)
    assert "no edit “best-of-times”" in gone["detail"]
    problem(await probing.delete("/api/v1/edits/best-of-times"), 404)


async def test_the_download_does_to_a_plain_model_what_the_edit_says(
    probing: httpx.AsyncClient, dictionary: Dictionary, tmp_path: Path
) -> None:
    await save(
        probing,
        interventions=[
            {"op": "scale", "value": 3.0, "feature": 7, "random_direction": 5},
            {"op": "add", "value": 2.0, "feature": 9, "random_direction": 5},
            {"op": "ablate", "feature": 11, "special_tokens": True},
        ],
    )
    response = await probing.get("/api/v1/edits/best-of-times/download")
    assert response.status_code == 200
    assert "best-of-times.json" in response.headers["Content-Disposition"]
    content = response.json()
    assert content["model_sha256"] == dictionary.model.weights_sha256
    assert content["saes"] == {SLUG: dictionary.row.weights_sha256}
    assert content["evidence"]["prompts"][0]["text"] == TEXT
    path = tmp_path / "edit.json"
    path.write_text(json.dumps(content))
    ids = torch.tensor([dictionary.model.tokenize(TEXT)])
    sae = dictionary.sae

    def along(feature: int) -> torch.Tensor:
        drawn = torch.randn(32, generator=torch.Generator().manual_seed(5))
        return drawn * (sae.W_dec[feature].norm() / drawn.norm())

    changes = [
        Intervention("scale", 3.0, feature=7, along=along(7)),
        Intervention("add", 2.0, feature=9, along=along(9)),
        Intervention("ablate", feature=11, special_tokens=True),
    ]
    with intervene(dictionary.model, [Site(HOOK, changes, sae)]):
        expected = dictionary.model.logits(ids)
    plain = AutoModelForCausalLM.from_pretrained(dictionary.model.source)
    with torch.no_grad(), apply_edits(plain, path):
        torch.testing.assert_close(plain(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert (expected - dictionary.model.logits(ids)).abs().max() > 0.01
    assert load_edit(path).model_name == "tiny"


@pytest.mark.read_only
@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"title": " "}, 422, "1 to 80 characters"),
        ({"title": "x" * 81}, 422, "1 to 80 characters"),
        ({"sae": "none"}, 404, "none"),
        ({"interventions": []}, 422, "at least 1"),
        ({"interventions": [{"op": "clamp", "feature": 99}]}, 422, "There is no feature 99"),
        ({"interventions": [{"op": "clamp", "feature": 1, "value": 1e30}]}, 422, "too large"),
        ({"interventions": [{"op": "melt", "feature": 1}]}, 422, "ablate"),
        (
            {"interventions": [{"op": "clamp", "feature": 1}, {"op": "ablate", "feature": 1}]},
            422,
            "two interventions",
        ),
        ({"interventions": [{"op": "add", "direction": {"vector": [1.0, 2.0]}}]}, 422, "2 dimensions"),
        ({"prompts": [{"text": "a\0b"}]}, 422, "NUL"),
        ({"notes": "x" * 4001}, 422, "4,000 characters"),
        ({"checks": {"prompts": [{"prompt": "It", "expected": ""}]}}, 422, "at least 1"),
        ({"measured": {}}, 422, "measured"),
    ],
)
async def test_what_is_no_edit_says_why(
    probing: httpx.AsyncClient, fields: dict[str, Any], status: int, says: str
) -> None:
    assert says in problem(await probing.post("/api/v1/edits", json=body(**fields)), status)["detail"]
    assert (await probing.get("/api/v1/edits")).json()["edits"] == []
