"""Steering over HTTP, with two real servers: streams that are dropped, and what one request leaves for the next."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine
from torch import nn

from app.inference import server
from app.main import create_app
from app.queries.saes import SaeDetail
from app.services.inference_messages import SaeRef
from sae_core.models import LanguageModel
from tests.app.inference.dictionaries import Dictionary, publish
from tests.web.serving import serving
from tests.web.site import SECRET

TEXT = "It was the best of times, it was the"
STREAM = {"Accept": "text/event-stream"}


@dataclass
class Servers:
    """A site, its inference process, and the SAE of both."""

    client: httpx.AsyncClient
    inference: FastAPI
    sae: SaeDetail
    caches: list["weakref.ref[Any]"] = field(default_factory=list)
    """Every key-value cache that was made."""

    @property
    def model(self) -> nn.Module:
        with self.inference.state.residency.use(SaeRef.of(self.sae)) as (model, _):
            found: nn.Module = model.hf_model
            return found

    @property
    def caches_alive(self) -> int:
        gc.collect()
        return sum(cache() is not None for cache in self.caches)


@pytest.fixture
async def servers(
    dictionary: Dictionary, engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Servers]:
    sae = await publish(engine, dictionary)
    changes = {"database_url": database_url, "inference_secret": SecretStr(SECRET)}
    settings = dictionary.settings.model_copy(update=changes)
    inference = server.create_app(settings)
    with serving(inference) as address:
        site = create_app(settings.model_copy(update={"inference_url": address}))
        with serving(site) as url:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                servers = Servers(client, inference, sae)
                made = LanguageModel.new_cache

                def recorded(model: LanguageModel) -> Any:
                    cache = made(model)
                    servers.caches.append(weakref.ref(cache))
                    return cache

                monkeypatch.setattr(LanguageModel, "new_cache", recorded)
                yield servers


def paths(servers: Servers) -> dict[str, tuple[str, dict[str, Any]]]:
    """Address and request of each stream, which would take hundreds of passes."""
    api = f"/api/v1/saes/{servers.sae.slug}"
    interventions = [{"feature": 1, "op": "clamp", "value": 20}]
    prompt = {"text": TEXT, "interventions": interventions, "max_new_tokens": 100}
    form = {"text": TEXT, "feature": 1, "value": 20, "tokens": 100}
    return {
        "generate": (f"{api}/generate", {"json": prompt}),
        "sweep": (
            f"{api}/sweep",
            {"json": prompt | {"strengths": list(range(20)), "control": "direction", "max_new_tokens": 6}},
        ),
        "page": (f"/saes/{servers.sae.slug}/steer", {"data": form}),
        "page's sweep": (f"/saes/{servers.sae.slug}/steer", {"data": form | {"run": "sweep", "tokens": 6}}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generate", "sweep", "page", "page's sweep"])
async def test_work_stops_and_memory_returns_when_a_stream_is_dropped(
    servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.inference.streaming._SLICE_SECONDS", 0.0)
    url, body = paths(servers)[name]
    short = {"text": TEXT, "interventions": [{"feature": 1, "op": "ablate"}], "max_new_tokens": 2}
    await servers.client.post(paths(servers)["generate"][0], json=short)  # the model is in memory
    entered, dropped, passes = threading.Event(), threading.Event(), [0]

    def count(*_arguments: object) -> None:
        passes[0] += 1
        if passes[0] == 12:
            entered.set()
            assert dropped.wait(20)

    hook = servers.model.register_forward_hook(count)
    async with servers.client.stream("POST", url, headers=STREAM, **body) as response:
        assert response.status_code == 200
        parts = response.aiter_bytes()  # an iterator that nobody holds would close the stream
        assert await anext(parts)
        assert await asyncio.to_thread(entered.wait, 20), passes
        assert servers.caches_alive
    dropped.set()
    scheduler = servers.inference.state.scheduler
    async with asyncio.timeout(20):
        while not scheduler._free or servers.caches_alive:
            await servers.client.get("/healthz")
    hook.remove()
    assert passes[0] < 100, "all of it takes more than 200"
    assert (await servers.client.post(paths(servers)["generate"][0], json=short)).status_code == 200


@pytest.mark.slow
async def test_default_changed_and_default_again_are_the_same_to_the_bit(servers: Servers) -> None:
    url = paths(servers)["generate"][0]
    sweep_url, sweep = paths(servers)["sweep"]
    default = {"text": TEXT, "interventions": [{"feature": 1, "op": "scale", "value": 1}], "max_new_tokens": 12}
    sampled = default | {"temperature": 1.0, "seed": 5}
    changed = default | {"interventions": [{"feature": 1, "op": "clamp", "value": 60}], "temperature": 2.0, "seed": 9}
    bad = default | {"interventions": [{"feature": 10**6, "op": "ablate"}]}

    async def ask(body: dict[str, Any]) -> bytes:
        answer = await servers.client.post(url, json=body)
        assert answer.status_code == 200, answer.text
        return answer.content

    before = [await ask(default), await ask(sampled)]
    await ask(changed)
    assert (await servers.client.post(url, json=bad)).status_code == 422
    small = sweep["json"] | {"max_new_tokens": 4, "strengths": [50]}
    assert (await servers.client.post(sweep_url, json=small)).status_code == 200
    async with servers.client.stream("POST", url, headers=STREAM, json=changed) as response:
        assert await anext(response.aiter_bytes())
    assert [await ask(default), await ask(sampled)] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in servers.model.modules())


@pytest.mark.slow
async def test_probes_go_in_between_the_texts_of_a_sweep(servers: Servers) -> None:
    url, body = paths(servers)["sweep"]
    probe = f"/api/v1/saes/{servers.sae.slug}/probe"
    await servers.client.post(probe, json={"text": TEXT})
    async with servers.client.stream("POST", url, headers=STREAM, **body) as response:
        parts = response.aiter_bytes()
        await anext(parts)
        assert (await servers.client.post(probe, json={"text": TEXT})).status_code == 200
        rest = b"".join([part async for part in parts])
    assert b"event: done" in rest, "the sweep was still going on"
