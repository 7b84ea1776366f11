"""The client of the inference process, against processes that do not answer as they should."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from app.errors import Busy, ClientGone, Loading, Unavailable, Unprocessable
from app.services.inference import ExamplesRequest, InferenceClient, ProbeRequest
from app.settings import Settings
from app.supervision.sockets import listen, url_of

Reply = Callable[[httpx.Request], Awaitable[httpx.Response]]

ANSWER = {
    "token_ids": [1],
    "ends": [0],
    "counted": [False],
    "features": [],
    "positions": [],
    "activations": [],
    "percentiles": None,
    "ranked": [],
    "maxima": [],
}
PROBE = ProbeRequest(sae="x", text="y")


@asynccontextmanager
async def client_of(reply: Reply) -> AsyncIterator[InferenceClient]:
    client = InferenceClient(Settings(inference_url="http://inference"), transport=httpx.MockTransport(reply))
    yield client
    await client.close()


@pytest.mark.parametrize("high", [math.inf, math.nan])
async def test_a_number_that_json_cannot_hold_is_refused(high: float) -> None:
    async def reply(_request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing is sent")

    async with client_of(reply) as client:
        with pytest.raises(Unprocessable, match="finite"):
            await client.sample_examples(ExamplesRequest(sae="x", feature=0, low=0, high=high, limit=1))
        with pytest.raises(Unprocessable, match="whole characters"):
            await client.probe(ProbeRequest(sae="x", text="half \ud83e"))


async def test_a_process_that_takes_connections_and_answers_none_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.inference._PATIENCE_SECONDS", 0.05)
    dropped = asyncio.Event()
    up = False

    async def reply(request: httpx.Request) -> httpx.Response:
        if up:
            return httpx.Response(200, json=ANSWER)
        if request.url.path == "/healthz":
            raise httpx.ReadTimeout("as a socket that nobody reads")
        try:
            await asyncio.Future()
        finally:
            dropped.set()
        raise AssertionError

    async with client_of(reply) as client:
        with pytest.raises(Loading, match="inference process is starting: 0 s so far") as caught:
            await client.probe(PROBE)
        assert caught.value.expected is None
        await asyncio.wait_for(dropped.wait(), 5)
        up = True
        await client.probe(PROBE)
        up = False
        with pytest.raises(Loading, match="1 s the last time"):
            await client.probe(PROBE)


async def test_an_answer_of_a_process_that_is_up_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.inference._PATIENCE_SECONDS", 0.01)
    asked = asyncio.Event()

    async def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/healthz":
            asked.set()
            return httpx.Response(200)
        await asked.wait()
        return httpx.Response(200, json=ANSWER)

    async with client_of(reply) as client:
        assert (await client.probe(PROBE)).token_ids == [1]


async def test_what_a_visitor_no_longer_waits_for_is_dropped() -> None:
    started, dropped = asyncio.Event(), asyncio.Event()

    async def reply(_request: httpx.Request) -> httpx.Response:
        started.set()
        try:
            await asyncio.Future()
        finally:
            dropped.set()
        raise AssertionError

    async def receive() -> dict[str, str]:
        await started.wait()
        return {"type": "http.disconnect"}

    async with client_of(reply) as client:
        with pytest.raises(ClientGone):
            await client.for_client(receive).probe(PROBE)
        await asyncio.wait_for(dropped.wait(), 5)


async def test_a_busy_process_says_when_to_try_again() -> None:
    async def reply(_request: httpx.Request) -> httpx.Response:
        body = {"title": Busy.title, "detail": "Too many requests."}
        return httpx.Response(503, json=body, headers={"Retry-After": "7"})

    async with client_of(reply) as client:
        with pytest.raises(Unavailable, match="Too many") as caught:
            await client.probe(PROBE)
    assert (caught.value.title, caught.value.retry_after) == ("Busy right now", 7)


async def test_a_socket_that_a_killed_process_left_is_that_of_one_that_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.inference._PATIENCE_SECONDS", 0.1)
    with listen("127.0.0.1", 0) as left:  # as the supervisor keeps it: it takes connections, and nobody reads them
        client = InferenceClient(Settings(inference_url=url_of(left), database_url=None))
        with pytest.raises(Loading, match="inference process is starting"):
            await client.probe(PROBE)
        await client.close()
