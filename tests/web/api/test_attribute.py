"""Attribution, whole: site, inference service, models and SAEs are real; only the network between them is not."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from app.errors import ClientGone
from app.inference.scheduler import Turn
from app.queries.saes import SaeDetail
from tests.app.inference.dictionaries import EARLY_SLUG, HOOK, Dictionary
from tests.tiny import BOS
from tests.web.api.problems import problem

TEXT = "It was the best of times, it was the"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def url(two_layers: SaeDetail) -> str:
    return f"/api/v1/saes/{two_layers.slug}/attribute"


async def ask(live: httpx.AsyncClient, url: str, **request: Any) -> dict[str, Any]:
    response = await live.post(url, json={"text": TEXT, **request})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_by_default_it_explains_the_most_probable_next_token(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    answer = await ask(live, url)
    model = dictionary.model
    token_ids = torch.tensor([model.tokenize(TEXT)])
    logits = model.logits(token_ids)[0, -1]
    assert answer["target"]["id"] == answer["predictions"][0]["id"] == int(logits.argmax())
    assert answer["value"] == pytest.approx(logits.max().item(), abs=1e-4)
    assert answer["position"] == len(answer["tokens"]) - 1
    assert "".join(token["text"] for token in answer["tokens"]) == BOS + TEXT
    assert answer["target"]["probability"] == pytest.approx(logits.softmax(0).max().item(), abs=1e-5)


async def test_ablations_are_those_of_a_hook_written_by_hand(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    answer = await ask(live, url, target={"id": 40}, rival={"id": 41}, verify=5, top=20)
    model, sae = dictionary.model, dictionary.sae.for_inference()
    token_ids = torch.tensor([model.tokenize(TEXT)])
    clean = model.logits(token_ids)[0, -1]
    assert answer["value"] == pytest.approx((clean[40] - clean[41]).item(), abs=1e-4)
    sizes = [abs(node["attribution"]) for node in answer["nodes"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 20
    assert [node["ablation"] is not None for node in answer["nodes"]] == [True] * 5 + [False] * 15
    for node in answer["nodes"][:5]:

        def by_hand(x: torch.Tensor, _: torch.Tensor, node: dict[str, Any] = node) -> torch.Tensor:
            x = x.clone()
            at, feature = node["position"], node["feature"]
            x[0, at] -= sae.encode(x[0, at])[feature] * sae.W_dec[feature]
            return x

        changed = model.logits(token_ids, HOOK, by_hand)[0, -1]
        expected = (changed[40] - changed[41]) - (clean[40] - clean[41])
        assert node["ablation"] == pytest.approx(expected.item(), abs=1e-4)


async def test_features_and_errors_are_stated_for_each_counted_position(live: httpx.AsyncClient, url: str) -> None:
    answer = await ask(live, url, top=1000)
    assert [share["position"] for share in answer["error"]] == list(range(1, len(answer["tokens"])))
    assert len(answer["nodes"]) == answer["active"]
    for share in answer["error"]:
        own = [node["attribution"] for node in answer["nodes"] if node["position"] == share["position"]]
        assert share["features"] == pytest.approx(sum(own), abs=1e-4)
    features = sum(abs(share["features"]) for share in answer["error"])
    errors = sum(abs(share["attribution"]) for share in answer["error"])
    assert answer["explained"] == pytest.approx(features / (features + errors), rel=1e-3)


async def test_a_token_in_the_text_is_predicted_after_the_one_before_it(
    live: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    token_ids = dictionary.model.tokenize(TEXT)
    answer = await ask(live, url, target={"id": token_ids[4], "position": 3})
    logits = dictionary.model.logits(torch.tensor([token_ids[:4]]))[0, -1]
    assert answer["value"] == pytest.approx(logits[token_ids[4]].item(), abs=1e-4)
    assert max(node["position"] for node in answer["nodes"]) <= 3


async def test_saes_of_two_layers_share_a_pass_and_have_edges(
    live: httpx.AsyncClient, url: str, two_layers: SaeDetail
) -> None:
    answer = await ask(live, url, saes=[EARLY_SLUG], top=10)
    assert {node["sae"] for node in answer["nodes"]} == {two_layers.slug, EARLY_SLUG}
    assert answer["edges"]
    assert answer["edges_kept"] >= 0.8
    for edge in answer["edges"]:
        source, target = answer["nodes"][edge["source"]], answer["nodes"][edge["target"]]
        assert (source["sae"], target["sae"]) == (EARLY_SLUG, two_layers.slug)
        assert source["position"] <= target["position"]


async def test_integrated_gradients_are_another_method(live: httpx.AsyncClient, url: str) -> None:
    gradient, integrated = [await ask(live, url, method=method) for method in ("gradient", "integrated")]
    assert gradient["value"] == integrated["value"]
    of_gradient = [node["attribution"] for node in gradient["nodes"]]
    assert not np.allclose(of_gradient, [node["attribution"] for node in integrated["nodes"]])


async def test_a_target_may_be_named_by_its_text(live: httpx.AsyncClient, url: str, dictionary: Dictionary) -> None:
    answer = await ask(live, url, target={"token": " the"})
    assert [answer["target"]["id"]] == dictionary.model.tokenize(" the", prepend_bos=False)
    assert answer["target"]["text"] == " the"


@pytest.mark.parametrize(
    ("request_", "status", "detail"),
    [
        ({"text": ""}, 422, "The text is empty"),
        ({"text": "a\ud800"}, 422, "half of a surrogate pair"),
        ({"text": "word " * 500}, 413, "at most 100 can be probed"),
        ({"target": {"id": 40, "position": 999}}, 422, "no token at position 999: its positions are 0 to"),
        ({"target": {"id": 99_999}}, 422, "no token 99999: the vocabulary ends at 511"),
        ({"target": {"token": "the best of times"}}, 422, "tokens, not one"),
        ({"target": {"token": ""}}, 422, "0 tokens, not one"),
        ({"target": {}}, 422, "either by its id or by its text"),
        ({"target": {"id": 3, "token": "a"}}, 422, "either by its id or by its text"),
        ({"target": {"id": 40}, "rival": {"id": 40}}, 422, "the same"),
        ({"method": "magic"}, 422, "method"),
        ({"steps": 0}, 422, "steps"),
        ({"verify": 10_000}, 422, "verify"),
        ({"saes": ["nothing"]}, 404, "no SAE “nothing”"),
        ({"saes": [f"sae-{number}" for number in range(9)]}, 422, "At most 8 SAEs"),
    ],
)
async def test_bad_input_is_refused_in_one_sentence(
    live: httpx.AsyncClient, url: str, request_: dict[str, Any], status: int, detail: str
) -> None:
    response = await live.post(url, content=json.dumps({"text": TEXT, **request_}), headers=JSON)
    assert detail in problem(response, status)["detail"]


async def test_a_lone_bos_has_a_value_and_no_nodes(live: httpx.AsyncClient, url: str) -> None:
    answer = await ask(live, url, text=BOS)
    assert answer["nodes"] == answer["error"] == []
    assert answer["explained"] is None
    assert answer["rank_correlation"] is None


async def test_a_client_that_goes_stops_the_work(
    live: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Turn, "raise_if_gone", _gone)
    response = await live.post(url, json={"text": TEXT, "method": "integrated"})
    assert response.status_code == 503
    monkeypatch.undo()
    await ask(live, url)


def _gone(_turn: Turn) -> None:
    raise ClientGone
