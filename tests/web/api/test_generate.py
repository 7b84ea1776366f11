"""Generation with interventions, whole: site, inference service, model and SAEs are real."""

import json
from typing import Any

import httpx
import pytest
import torch

from app.queries.saes import SaeDetail
from sae_core.interventions import Intervention, Sampling, Shift, Site, Step, generate_side_by_side
from tests.app.inference.dictionaries import EARLY_SLUG, HOOK, Dictionary
from tests.tiny import BOS
from tests.web.api.problems import problem
from tests.web.site import app_of

TEXT = "It was the best of times, it was the"
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def url(two_layers: SaeDetail) -> str:
    return f"/api/v1/saes/{two_layers.slug}/generate"


def active_feature(dictionary: Dictionary) -> int:
    x = dictionary.model.activations(torch.tensor([dictionary.model.tokenize(TEXT)]), HOOK)[0, 1:]
    return int(dictionary.sae.encode(x).max(dim=0).values.argmax())


async def ask(live: httpx.AsyncClient, url: str, *interventions: Any, **request: Any) -> dict[str, Any]:
    body = {"text": TEXT, "interventions": list(interventions), "max_new_tokens": 12, **request}
    response = await live.post(url, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_both_sides_are_what_sae_core_generates(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    feature = active_feature(dictionary)
    answer = await ask(live, url, {"feature": feature, "op": "clamp", "value": 30})
    site = Site(HOOK, [Intervention("clamp", 30.0, feature=feature)], dictionary.sae)
    model = dictionary.model
    events = list(generate_side_by_side(model, model.tokenize(TEXT), [site], Sampling(max_new_tokens=12)))
    for side in ("default", "changed"):
        steps = [event for event in events if isinstance(event, Step) and event.side == side]
        assert answer[side]["token_ids"] == [step.token_id for step in steps]
        assert answer[side]["logprobs"] == pytest.approx([step.log_probability for step in steps], abs=1e-4)
        assert [[one["id"] for one in top] for top in answer[side]["top_logprobs"]] == [
            [token for token, _ in step.top] for step in steps
        ]
        assert "".join(answer[side]["tokens"]) == answer[side]["text"]
        assert answer[side]["text"] == model.decode(answer[side]["token_ids"])
        assert answer[side]["end"] in ("length", "end of text")
    assert answer["default"]["text"] != answer["changed"]["text"]
    assert answer["kl"] == pytest.approx([event.kl for event in events if isinstance(event, Shift)], abs=1e-4)
    assert [shift["position"] for shift in answer["shifts"]] == list(range(len(answer["kl"])))
    assert "".join(token["text"] for token in answer["prompt"]) == BOS + TEXT


async def test_a_stream_carries_what_the_whole_answer_has(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    asked = {"feature": active_feature(dictionary), "op": "scale", "value": -4, "positions": "generated"}
    options = {"temperature": 0.9, "seed": 3}
    whole = await ask(live, url, asked, **options)
    body = {"text": TEXT, "interventions": [asked], "max_new_tokens": 12, **options}
    response = await live.post(url, json=body, headers=STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in (block.split("\n", 1) for block in response.text.strip().split("\n\n"))
    ]
    assert events[0] == ("prompt", {"tokens": whole["prompt"]})
    assert events[-1] == ("done", {})
    assert [data for name, data in events if name == "shift"] == whole["shifts"]
    for side in ("default", "changed"):
        tokens = [data for name, data in events if name == "token" and data["side"] == side]
        assert [token["id"] for token in tokens] == whole[side]["token_ids"]
        (end,) = [data for name, data in events if name == "end" and data["side"] == side]
        assert end["end"] == whole[side]["end"]
        assert "".join(token["text"] for token in tokens) + end["text"] == whole[side]["text"]


async def test_what_changes_nothing_shows_no_shift(live: httpx.AsyncClient, url: str, dictionary: Dictionary) -> None:
    answer = await ask(live, url, {"feature": active_feature(dictionary), "op": "scale", "value": 1})
    assert answer["default"]["token_ids"] == answer["changed"]["token_ids"]
    assert max(answer["kl"]) < 1e-5


async def test_directions_controls_positions_and_other_saes_act(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    feature = active_feature(dictionary)
    strong = {"op": "add", "value": 40}
    for intervention in (
        {"direction": {"vector": [1.0] * 32}, **strong},
        {"direction": {"feature": feature}, **strong},
        {"direction": {"positive": ["best of times"], "negative": ["worst of times"]}, **strong},
        {"feature": feature, "random_direction": 7, **strong},
        {"feature": feature, "positions": [2, 5], **strong},
        {"feature": feature, "positions": {"tokens": [3]}, **strong},
        {"feature": 1, "sae": EARLY_SLUG, **strong},
    ):
        answer = await ask(live, url, intervention, max_new_tokens=3)
        assert max(answer["kl"]) > 1e-3, intervention
    at_three = await ask(live, url, {"feature": feature, "positions": {"tokens": [3]}, **strong}, max_new_tokens=3)
    assert [kl > 1e-6 for kl in at_three["kl"][:4]] == [False, False, False, True]
    row = await ask(live, url, {"direction": {"feature": feature}, **strong}, max_new_tokens=3)
    own = await ask(live, url, {"feature": feature, **strong}, max_new_tokens=3)
    assert row["kl"] == pytest.approx(own["kl"], abs=1e-5)


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"text": ""}, 422, "empty"),
        ({"text": "times " * 500}, 413, "at most"),
        ({"interventions": []}, 422, "interventions"),
        ({"max_new_tokens": 0}, 422, "max_new_tokens"),
        ({"max_new_tokens": 10**6}, 422, "max_new_tokens"),
        ({"max_new_tokens": 500}, 422, "reads at most 256 tokens"),
        ({"temperature": -1}, 422, "temperature"),
        ({"interventions": [{"op": "boost", "feature": 1}]}, 422, "op"),
        ({"interventions": [{"op": "ablate", "feature": 10**6}]}, 422, "no feature 1000000"),
        ({"interventions": [{"op": "clamp", "feature": 1, "value": 1e30}]}, 422, "too large"),
        ({"interventions": [{"op": "clamp"}]}, 422, "one of the two"),
        ({"interventions": [{"op": "ablate", "feature": 1}, {"op": "clamp", "feature": 1}]}, 422, "two interventions"),
        ({"interventions": [{"op": "ablate", "feature": 1, "positions": [5, 2]}]}, 422, "no range"),
        ({"interventions": [{"op": "ablate", "feature": 1, "positions": {"tokens": [-4]}}]}, 422, "position"),
        ({"interventions": [{"op": "ablate", "feature": 1, "positions": {"tokens": [999]}}]}, 422, "no token 999"),
        ({"interventions": [{"op": "ablate", "feature": 1, "positions": [500, 600]}]}, 422, "no token 500"),
        ({"interventions": [{"op": "add", "value": 1, "direction": {"vector": [1.0]}}]}, 422, "1 dimensions"),
        ({"interventions": [{"op": "add", "value": 1, "direction": {"vector": [0.0] * 32}}]}, 422, "zero"),
        ({"interventions": [{"op": "add", "direction": {"positive": ["a"], "negative": []}}]}, 422, "both sides"),
        ({"interventions": [{"op": "add", "direction": {"positive": ["a"]}}]}, 422, "both lists"),
        ({"interventions": [{"op": "ablate", "feature": 1, "sae": "nowhere"}]}, 404, "nowhere"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests_are_refused_with_one_sentence(
    live: httpx.AsyncClient, url: str, request_: dict[str, Any], status: int, words: str, stream: bool
) -> None:
    body = {"text": TEXT, "interventions": [{"op": "ablate", "feature": 1}], **request_}
    response = await live.post(url, json=body, headers=STREAM if stream else {})
    assert words in problem(response, status)["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_are_none_are_refused(live: httpx.AsyncClient, url: str, value: str) -> None:
    content = f'{{"text": "a", "interventions": [{{"op": "clamp", "feature": 1, "value": {value}}}]}}'
    response = await live.post(url, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422


async def test_nothing_of_one_request_is_left_for_the_next(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    feature = active_feature(dictionary)
    nothing = {"feature": feature, "op": "scale", "value": 1}
    before = await ask(live, url, nothing, temperature=1, seed=5)
    await ask(live, url, {"feature": feature, "op": "clamp", "value": 50}, temperature=1, seed=9)
    bad = {"text": TEXT, "interventions": [{"op": "ablate", "feature": 10**6}]}
    assert (await live.post(url, json=bad)).status_code == 422
    assert await ask(live, url, nothing, temperature=1, seed=5) == before
    assert not app_of(live).state.inference._client.is_closed
