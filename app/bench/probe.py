"""Benchmark of a probe: HTTP, web and inference process, compared with the model's forward alone.

The forward pass runs in this process, in turn with the probes, on the same tokens to the same hook point. Then many
people probe at once, a second time while four more steer, and leave at once.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Coroutine
from typing import Any

import httpx
import torch

from app.bench.bench_inputs import HOOK, BenchInputs, Notify, load, spread
from app.errors import UserError
from app.settings import Settings
from app.supervision.supervisor import Site, running_site

WARM = 10
"""Probes before the measurement, in which caches fill."""
_LOAD_SECONDS = 120
_EACH = 3
"""Probes of each of many people."""
_STEERING = 4
"""People who steer meanwhile."""
_WRITTEN = 30
"""Tokens that each of them lets the model write, twice."""
_LEAVE_SECONDS = 0.3
"""After which they leave: their probes wait then."""
PAUSE = 0.1
"""Seconds before each measurement: torch's threads go on spinning for a moment when a pass has ended, and would take
time from the other side."""


async def run(
    settings: Settings, sae: str | None, tokens: int, rounds: int, people: int, notify: Notify
) -> dict[str, Any]:
    """Serve the site and probe it.

    Raises:
        UserError: there is no SAE of the demo's model and hook point, or the site cannot be started.
    """
    inputs = load(settings, 16 * tokens, notify)
    text = _text(inputs, tokens)
    token_ids = torch.tensor([inputs.model.tokenize(text)])
    notify("Starting the site")
    prompt = {"text": text, "top_k": 50}
    took, floor = [], []
    async with (
        running_site(settings.model_copy(update={"port": 0}), lambda _line: None, asyncio.Event()) as site,
        httpx.AsyncClient(base_url=site.url, timeout=120) as client,
    ):
        slug = sae or await _some_sae(client)
        await _until_loaded(client, slug, prompt)
        for _ in range(WARM + rounds):
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            answer = await client.post(f"/api/v1/saes/{slug}/probe", json=prompt)
            took.append(1000 * (time.perf_counter() - began))
            if answer.status_code != httpx.codes.OK:
                raise UserError(f"The probe was answered with {answer.status_code}: {answer.text[:200]}")
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            inputs.model.activations(token_ids, HOOK)
            floor.append(1000 * (time.perf_counter() - began))
        crowd = await _crowd(site, slug, text, people) if people else {}
    took, floor = took[WARM:], floor[WARM:]
    return {
        "sae": slug,
        "tokens": len(token_ids[0]),
        "p50_ms": round(statistics.median(took), 1),
        "p95_ms": round(statistics.quantiles(took, n=20)[-1], 1),
        "floor_ms": round(statistics.median(floor), 1),
        "target_ms": round(1.2 * statistics.median(floor) + 15, 1),
        **crowd,
    }


async def _crowd(site: Site, slug: str, text: str, people: int) -> dict[str, Any]:
    """Let many people probe at once, alone and beside some who steer, and ask meanwhile whether the processes are up.
    Then let all leave at once.

    Raises:
        UserError: a request failed.
    """
    limits = httpx.Limits(max_connections=2 * people)
    async with httpx.AsyncClient(base_url=site.url, timeout=120, limits=limits, trust_env=False) as client:

        async def post(person: int, operation: str, body: dict[str, Any]) -> float:
            began = time.perf_counter()
            headers = {"Cookie": f"author={person}"}
            answer = await client.post(f"/api/v1/saes/{slug}/{operation}", json=body, headers=headers)
            if answer.status_code != httpx.codes.OK:
                raise UserError(f"“{operation}” of one of {people} people was answered with {answer.status_code}.")
            return 1000 * (time.perf_counter() - began)

        def ask(person: int) -> Coroutine[Any, Any, float]:
            return post(person, "probe", {"text": text})

        def steer(person: int) -> Coroutine[Any, Any, float]:
            change = {"op": "add", "value": 10.0, "feature": person}
            return post(
                people + person, "generate", {"text": text, "interventions": [change], "max_new_tokens": _WRITTEN}
            )

        probing = [person for person in range(people) for _ in range(_EACH)]
        stop = threading.Event()
        watching = [
            asyncio.create_task(asyncio.to_thread(_healthz, url, stop)) for url in (site.url, site.inference_url)
        ]
        try:
            took = await asyncio.gather(*map(ask, probing))
            both = await asyncio.gather(*map(steer, range(_STEERING)), *map(ask, probing))
        finally:
            stop.set()
            site_up, inference_up = await asyncio.gather(*watching)
        leaving = [asyncio.create_task(ask(person)) for person in range(people)]
        await asyncio.sleep(_LEAVE_SECONDS)
        for task in leaving:
            task.cancel()
        began = time.perf_counter()
        await ask(people)
    return {
        "people": people,
        "people_p95_ms": round(statistics.quantiles(took, n=20)[-1], 1),
        "steering": _STEERING,
        "steering_s": [round(ms / 1000, 1) for ms in both[:_STEERING]],
        "people_beside_p95_ms": round(statistics.quantiles(both[_STEERING:], n=20)[-1], 1),
        "site_healthz_ms": spread(site_up),
        "inference_healthz_ms": spread(inference_up),
        "after_leaving_ms": round(1000 * (time.perf_counter() - began), 1),
    }


def _healthz(url: str, stop: threading.Event) -> list[float]:
    """Ask whether a process is up, ten times a second; return the milliseconds that each answer took."""
    took: list[float] = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while not stop.wait(0.1) or not took:
            began = time.perf_counter()
            client.get("/healthz").raise_for_status()
            took.append(round(1000 * (time.perf_counter() - began), 1))
    return took


async def _until_loaded(client: httpx.AsyncClient, slug: str, prompt: dict[str, Any]) -> None:
    """Probe until the model is loaded, which answers say of themselves until then."""
    patience = time.monotonic() + _LOAD_SECONDS
    while time.monotonic() < patience:
        answer = await client.post(f"/api/v1/saes/{slug}/probe", json=prompt)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return
        await asyncio.sleep(1)


def _text(inputs: BenchInputs, tokens: int) -> str:
    """Return a prompt of that many tokens, including BOS, from the corpus."""
    for row, counted in zip(inputs.sequences.token_ids, inputs.sequences.counted, strict=True):
        ids = row[counted][: tokens - 1].tolist()
        text = inputs.model.decode(ids)
        if len(inputs.model.tokenize(text)) == tokens:
            return text
    raise UserError(f"No sequence of the corpus gives a prompt of {tokens} tokens. Ask for another number.")


async def _some_sae(client: httpx.AsyncClient) -> str:
    saes = (await client.get("/api/v1/saes")).json()["saes"]
    fitting = [sae["slug"] for sae in saes if sae["hook"] == str(HOOK) and sae["index"]]
    if not fitting:
        raise UserError("There is no indexed SAE at the demo's hook point to probe. Run seesae demo first.")
    return str(fitting[0])
