"""Sweeps, whole: site, inference service, model and SAEs are real."""

import json
from typing import Any

import httpx
import pytest

from app.queries.saes import SaeDetail
from app.services.sweep import Point, SweepStart, Swept
from tests.app.inference.dictionaries import EARLY_SLUG, Dictionary
from tests.web.api.problems import problem
from tests.web.api.test_generate import STREAM, TEXT, active_feature


@pytest.fixture
def url(two_layers: SaeDetail) -> str:
    return f"/api/v1/saes/{two_layers.slug}/sweep"


def body_of(dictionary: Dictionary, **changes: Any) -> dict[str, Any]:
    interventions = [{"feature": active_feature(dictionary), "op": "clamp"}]
    return {"text": TEXT, "interventions": interventions, "strengths": [0, 5, 400], "max_new_tokens": 12} | changes


async def ask(live: httpx.AsyncClient, url: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await live.post(url, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_points_are_what_generation_gives_at_each_strength(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    body = body_of(dictionary)
    answer = await ask(live, url, body)
    assert [point["strength"] for point in answer["points"]] == [0, 5, 400]
    for point in answer["points"]:
        change = {**body["interventions"][0], "value": point["strength"]}
        asked = {"text": TEXT, "interventions": [change], "max_new_tokens": 12}
        generated = await ask(live, url.replace("/sweep", "/generate"), asked)
        assert point["text"] == generated["changed"]["text"]
        assert answer["default"]["text"] == generated["default"]["text"]
        own = generated["kl"][len(generated["prompt"]) - 1 :]
        assert point["kl"] == pytest.approx(sum(own) / len(own), abs=1e-4)
    assert answer["control"] is None
    assert answer["default"]["loss"] > 0


async def test_a_control_of_each_kind_has_its_own_points(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    alone = await ask(live, url, body_of(dictionary))
    for kind in ("feature", "direction"):
        answer = await ask(live, url, body_of(dictionary, control=kind, seed=3))
        assert answer["points"] == alone["points"]
        (change,) = answer["control"]["interventions"]
        own = active_feature(dictionary)
        assert (change["feature"] == own, change["random_direction"]) == (
            (kind == "direction"),
            3 if kind == "direction" else None,
        )
        values = [point["kl"] for point in answer["control"]["points"]]
        assert values != [point["kl"] for point in answer["points"]]
        assert await ask(live, url, body_of(dictionary, control=kind, seed=3)) == answer
    other = await ask(live, url, body_of(dictionary, control="direction", seed=4))
    assert other["control"]["points"][2]["kl"] != answer["control"]["points"][2]["kl"]


async def test_only_the_first_intervention_is_swept(live: httpx.AsyncClient, url: str, dictionary: Dictionary) -> None:
    second = {"feature": 1, "sae": EARLY_SLUG, "op": "add", "value": 30}
    several = body_of(dictionary)["interventions"] + [second]
    answer = await ask(live, url, body_of(dictionary, interventions=several, strengths=[5], control="direction"))
    generated = await ask(
        live,
        url.replace("/sweep", "/generate"),
        {"text": TEXT, "interventions": [{**several[0], "value": 5}, second], "max_new_tokens": 12},
    )
    assert answer["points"][0]["text"] == generated["changed"]["text"]
    assert [change["sae"] for change in answer["control"]["interventions"]] == [None, EARLY_SLUG]


async def test_a_stream_has_the_points_as_they_come_and_then_all(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    body = body_of(dictionary, control="direction")
    whole = await ask(live, url, body)
    response = await live.post(url, json=body, headers=STREAM)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in (block.split("\n", 1) for block in response.text.strip().split("\n\n"))
    ]
    assert [name for name, _ in events] == ["default", *["point"] * 6, "done"]
    assert events[0][1] == whole["default"]
    assert events[-1][1] == whole
    assert [data["control"] for _, data in events[1:-1]] == [False, True] * 3


async def test_a_collapse_is_the_smallest_strength_beyond_either_bound() -> None:
    start = SweepStart("", loss=1.0, repetition=0.2, promoted=(), control=None)

    def point(value: float, loss: float = 1.0, repetition: float = 0.2) -> Point:
        return Point(False, value, "", kl=0.0, loss=loss, repetition=repetition, promoted=None)

    whole = Swept()
    for part in (start, point(1, loss=3.0), point(-4, repetition=0.6), point(8, loss=9)):
        whole.add(part)
    assert whole.collapse() == -4
    assert whole.collapse(control=True) is None


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"strengths": []}, 422, "strengths"),
        ({"strengths": [1e30]}, 422, "strengths"),
        ({"strengths": list(range(26))}, 422, "strengths"),
        ({"interventions": [{"feature": 1, "op": "ablate"}]}, 422, "no strength"),
        ({"interventions": [{"feature": 10**6, "op": "clamp"}]}, 422, "no feature 1000000"),
        ({"interventions": [{"direction": {"vector": [1.0]}, "op": "add"}]}, 422, "1 dimensions"),
        ({"text": ""}, 422, "empty"),
        ({"text": None}, 422, "one prompt"),
        ({"chat": [{"role": "user", "content": "a"}]}, 422, "one prompt"),
        ({"max_new_tokens": 101}, 422, "max_new_tokens"),
        ({"control": "weather"}, 422, "control"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests_are_refused_with_one_sentence(
    live: httpx.AsyncClient,
    url: str,
    dictionary: Dictionary,
    changes: dict[str, Any],
    status: int,
    words: str,
    stream: bool,
) -> None:
    response = await live.post(url, json=body_of(dictionary, **changes), headers=STREAM if stream else {})
    assert words in problem(response, status)["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
async def test_strengths_that_are_no_numbers_are_refused(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary, value: str
) -> None:
    content = json.dumps(body_of(dictionary, strengths=["x"])).replace('"x"', value)
    response = await live.post(url, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
