"""The inference process with SEESAE_BACKEND=vllm and a stand-in for vLLM: its answers are those of the eager one."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from app.errors import Unavailable, UserError
from app.inference import completion, steering
from app.inference.engine import ProbeEngine
from app.inference.residency import Residency
from app.inference.server import create_app
from app.services.inference_messages import (
    AttributeRequest,
    CompletionRequest,
    GeneratedToken,
    GenerateRequest,
    LiveMonitor,
    PlacedIntervention,
    SweepRequest,
)
from app.services.inference_status import SECRET_HEADER
from app.settings import Settings
from sae_core.interventions import Edit, Intervention, Site
from sae_core.models import HookPoint
from sae_core.monitoring import monitor_to_json
from tests.app.inference.dictionaries import HOOK, Dictionary
from tests.app.inference.test_completion import monitor
from tests.vllm_stand_in import AsyncLLM, install

TEXT = "It was the best of times, it was the"
SECRET = "a secret of tests"
CLAMP = PlacedIntervention(sae=0, op="clamp", value=6.0, feature=3)


def asked(dictionary: Dictionary, **options: Any) -> dict[str, Any]:
    """Fields of a request to generate; `options` replace some."""
    own = {"saes": [dictionary.ref], "text": TEXT, "interventions": [CLAMP], "stop": [], "top": 3}
    return own | {"max_new_tokens": 6, "temperature": 0.7, "seed": 1} | options


def settings_of(dictionary: Dictionary) -> Settings:
    return dictionary.settings.model_copy(update={"backend": "vllm"})


@pytest.fixture
def engines(dictionary: Dictionary, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ProbeEngine, ProbeEngine]]:
    """On vLLM, and eager."""
    install(monkeypatch)
    served, eager = (Residency(settings) for settings in (settings_of(dictionary), dictionary.settings))
    yield ProbeEngine(served, 100), ProbeEngine(eager, 100)
    served.modules.clear()
    assert not AsyncLLM.running


def both(work: Any, engines: tuple[ProbeEngine, ProbeEngine], *arguments: Any, **options: Any) -> list[list[Any]]:
    return [[event for event in work(engine, *arguments, **options) if event is not None] for engine in engines]


def numbers(value: Any) -> list[float]:
    """All numbers of an answer, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for part in value for number in numbers(part)]
    return [float(value)] if isinstance(value, int | float) else []


def require_equal(ours: list[Any], theirs: list[Any]) -> None:
    assert [type(event) for event in ours] == [type(event) for event in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert numbers(mine.model_dump()) == pytest.approx(numbers(other.model_dump()), abs=2e-4, rel=1e-3)


def test_a_probe_is_that_of_the_eager_path(dictionary: Dictionary, engines: tuple[ProbeEngine, ProbeEngine]) -> None:
    ours, theirs = (engine.probe(dictionary.ref, TEXT) for engine in engines)
    assert ours.token_ids == theirs.token_ids
    assert (ours.features.tolist(), ours.positions.tolist()) == (theirs.features.tolist(), theirs.positions.tolist())
    assert ours.activations.tolist() == pytest.approx(theirs.activations.tolist(), rel=1e-5)


def test_steering_is_that_of_the_eager_path(dictionary: Dictionary, engines: tuple[ProbeEngine, ProbeEngine]) -> None:
    ours, theirs = both(steering.generate, engines, GenerateRequest(**asked(dictionary)))
    require_equal(ours, theirs)
    ids = {
        side: [event.id for event in ours if isinstance(event, GeneratedToken) and event.side == side]
        for side in ("default", "changed")
    }
    assert ids["default"] != ids["changed"]
    control = [CLAMP.model_copy(update={"random_direction": 1})]
    swept = SweepRequest(**asked(dictionary, max_new_tokens=4), values=[0.0, 8.0], control=control, promoted=[5])
    require_equal(*both(steering.sweep, engines, swept))


def test_a_watched_answer_is_that_of_the_eager_path(
    dictionary: Dictionary, engines: tuple[ProbeEngine, ProbeEngine]
) -> None:
    live = LiveMonitor(name="words", file=monitor_to_json(monitor(dictionary, threshold=0.1)))
    edit = Edit.of(
        "loud", dictionary.model, [Site(HOOK, [Intervention("scale", 3.0, feature=3)], dictionary.sae.for_inference())]
    )
    own = asked(dictionary, temperature=0, top_p=1, monitors=[live])
    request = CompletionRequest(**own)
    require_equal(*both(completion.complete, engines, request))
    require_equal(*both(completion.complete, engines, request, alert_edit=edit))


@pytest.fixture
async def service(
    dictionary: Dictionary, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
    install(monkeypatch)
    changes = {"database_url": database_url, "inference_secret": SecretStr(SECRET)}
    app = create_app(settings_of(dictionary).model_copy(update=changes))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://inference", headers={SECRET_HEADER: SECRET}
        ) as client,
    ):
        yield client, app
    assert not AsyncLLM.running


async def test_what_it_cannot_do_is_refused_before_anything_runs(
    service: tuple[httpx.AsyncClient, FastAPI], dictionary: Dictionary
) -> None:
    client, _ = service
    request = AttributeRequest(
        saes=[dictionary.ref],
        text=TEXT,
        position=None,
        target=None,
        rival=None,
        method="gradient",
        steps=1,
        top=5,
        verify=0,
    )
    answer = await client.post("/attribute", json=request.model_dump(mode="json"))
    assert answer.status_code == 422, answer.text
    assert "Attribution needs gradients through the model, which vLLM does not give" in answer.json()["detail"]
    assert "SEESAE_BACKEND=eager" in answer.json()["detail"]
    assert not AsyncLLM.running

    own = asked(dictionary, saes=[replace(dictionary.ref, hook="resid_mid.2")])
    swept = SweepRequest(**own, values=[1.0], control=None, promoted=[])
    for operation, request in (("generate", GenerateRequest(**own)), ("sweep", swept)):
        answer = await client.post(f"/{operation}", json=request.model_dump(mode="json"))
        assert answer.status_code == 422, answer.text
        assert "cannot change activations at resid_mid.2" in answer.json()["detail"]
        assert "SEESAE_BACKEND=eager" in answer.json()["detail"]


async def test_its_processes_end_with_the_inference_process(
    service: tuple[httpx.AsyncClient, FastAPI], dictionary: Dictionary
) -> None:
    client, _ = service
    request = GenerateRequest(**asked(dictionary))
    answer = await client.post("/generate", json=request.model_dump(mode="json"))
    assert answer.status_code == 200
    assert '"reason":"length"' in answer.text
    assert len(AsyncLLM.running) == 1


def test_a_model_whose_processes_failed_is_loaded_again(
    dictionary: Dictionary, engines: tuple[ProbeEngine, ProbeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, _ = engines
    served.probe(dictionary.ref, TEXT)

    async def dead(*_args: object, **_options: object) -> None:
        raise ConnectionError("EngineCore died.")

    with monkeypatch.context() as patch:
        patch.setattr(AsyncLLM, "collective_rpc", dead)
        with pytest.raises(Unavailable, match="vLLM failed on tiny"):
            served.probe(dictionary.ref, TEXT)
    assert not served.has_model(dictionary.ref)
    assert not AsyncLLM.running
    served.probe(dictionary.ref, TEXT)
    assert len(AsyncLLM.running) == 1


def test_without_vllm_the_process_does_not_start(dictionary: Dictionary, database_url: str) -> None:
    changes = {"database_url": database_url, "inference_secret": SecretStr(SECRET)}
    with pytest.raises(UserError, match="needs the package vllm, which is not installed here") as refused:
        create_app(settings_of(dictionary).model_copy(update=changes))
    assert "set SEESAE_BACKEND=eager" in str(refused.value)


def test_points_of_both_are_the_same(dictionary: Dictionary, engines: tuple[ProbeEngine, ProbeEngine]) -> None:
    widths = []
    for engine in engines:
        with engine.use(dictionary.ref) as (model, _):
            widths.append([model.d_in(HookPoint(name, 1)) for name in ("resid_pre", "z", "mlp_act", "mlp_out")])
    assert widths[0] == widths[1] == [32, 32, 64, 32]
