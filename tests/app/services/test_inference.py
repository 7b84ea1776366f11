"""The client of the inference process, against processes that do not answer as they should."""

import asyncio
import json
import math
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from app.errors import Busy, ClientGone, Loading, Unavailable, Unprocessable
from app.services.inference import CLIENT_HEADER, InferenceClient, InferenceDown
from app.services.inference_messages import ExamplesRequest, ModelRef, ProbeAnswer, ProbeRequest, SaeRef, pack
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
SAE = SaeRef("x", ModelRef("m", "m", "0", "0", 1, 1, 1), "resid_post.0", "saes/x", "0", 1, 1, None)
PROBE = ProbeRequest(sae=SAE, text="y")


@asynccontextmanager
async def client_of(reply: Reply, secret: str | None = None) -> AsyncIterator[InferenceClient]:
    settings = Settings(inference_url="http://inference", inference_secret=SecretStr(secret) if secret else None)
    client = InferenceClient(settings, transport=httpx.MockTransport(reply))
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
            await client.probe(ProbeRequest(sae=SAE, text="half \ud83e"))


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


async def test_a_process_that_answered_and_is_silent_is_not_said_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.inference._PATIENCE_SECONDS", 0.01)
    state = "up"

    async def reply(request: httpx.Request) -> httpx.Response:
        if state == "up":
            return httpx.Response(200, json=ANSWER)
        if state == "killed":
            raise httpx.ReadError("as of a process that was killed")
        if request.url.path == "/healthz":
            raise httpx.ReadTimeout("as a socket that nobody reads")
        await asyncio.Future()
        raise AssertionError

    async with client_of(reply) as client:
        await client.probe(PROBE)
        state = "silent"
        with pytest.raises(Loading, match="does not answer; it may be starting again: 0 s so far"):
            await client.probe(PROBE)
        monkeypatch.setattr("app.services.inference._SILENT_SECONDS", 0.0)
        monkeypatch.setattr("app.services.inference._GAP_SECONDS", 60.0)
        with pytest.raises(InferenceDown, match=r"has not answered for 0 s.*hangs") as caught:
            await client.probe(PROBE)
        assert not isinstance(caught.value, Loading)
        state = "killed"
        with pytest.raises(InferenceDown, match="is not answering"):
            await client.probe(PROBE)
        state = "silent"
        with pytest.raises(Loading, match="is starting"):  # the next one
            await client.probe(PROBE)
        monkeypatch.setattr("app.services.inference._START_SECONDS", 0.0)
        with pytest.raises(InferenceDown, match="cannot start"):
            await client.probe(PROBE)
        state = "up"
        await client.probe(PROBE)


async def test_visitors_are_told_apart_by_a_key_that_does_not_tell_who_they_are() -> None:
    keys = []

    async def reply(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers[CLIENT_HEADER])
        return httpx.Response(200, json=ANSWER)

    async def receive() -> dict[str, str]:
        await asyncio.Future()
        raise AssertionError

    for secret in ("a secret", "a secret", "another", None, None):
        async with client_of(reply, secret) as client:
            for visitor in ("192.0.2.1 author=ada", "192.0.2.1 author=ada", "192.0.2.1 author=bob"):
                await client.for_client(receive, visitor).probe(PROBE)
    assert keys[0] == keys[1] != keys[2]
    assert keys[:3] == keys[3:6]  # the web processes of one site know a visitor by the same key
    assert len({keys[0], keys[6], keys[9], keys[12]}) == 4  # those of other sites do not
    assert len({len(key) for key in keys}) == 1


def test_arrays_travel_to_the_bit() -> None:
    values = [0.1, 1e-300, -0.0, 3.0000001]
    packed = {"features": pack(array("i", [0, 2**31 - 1]).tobytes()), "activations": pack(array("d", values).tobytes())}
    answer = ProbeAnswer.model_validate_json(json.dumps(ANSWER | packed))
    assert answer.features == [0, 2**31 - 1]
    assert array("d", answer.activations).tobytes() == array("d", values).tobytes()
    for damaged in ("!", "AAAA"):
        with pytest.raises(ValidationError):
            ProbeAnswer.model_validate_json(json.dumps(ANSWER | {"activations": damaged}))


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
