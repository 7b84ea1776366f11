"""Say at the terminal which model the inference process loads when it starts, and when it is ready."""

import asyncio
from collections.abc import Callable

import httpx
from pydantic import ValidationError

from app.services.inference_status import SECRET_HEADER, Preloaded

_LOOK_SECONDS = 0.2


async def tell_preloading(
    url: str,
    secret: str,
    notify: Callable[[str], None],
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    pause: float = _LOOK_SECONDS,
) -> None:
    """Follow the load at the start to its end; `notify` gets at most a line when it begins and one when it ends."""
    told = False
    async with httpx.AsyncClient(
        base_url=url, headers={SECRET_HEADER: secret}, transport=transport, trust_env=False, timeout=5.0
    ) as client:
        while True:
            preloaded = await _look(client)
            if preloaded.state == "loading" and not told:
                told = True
                notify(f"Loading {preloaded.model} for probes…")
            if preloaded.state == "ready":
                notify(f"{preloaded.model} is ready for probes.")
            if preloaded.state == "failed":
                notify(f"{preloaded.model} cannot be loaded for probes: {preloaded.reason} The rest of the site works.")
            if preloaded.state in ("ready", "failed", "nothing"):
                return
            await asyncio.sleep(pause)


async def _look(client: httpx.AsyncClient) -> Preloaded:
    try:
        answer = await client.get("/preloaded")
        return Preloaded.model_validate_json(answer.content)
    except (httpx.TransportError, ValidationError):  # it is starting, or starting again
        return Preloaded()
