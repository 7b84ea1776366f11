"""The client against a local server of the protocol."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from app.errors import Unprocessable
from app.queries.suggestions import ModelAnswer
from app.services.llm import ATTEMPTS, EndpointUnusable, LlmClient, Message, RequestFailed, model_name, price
from app.settings import Settings
from tests.llm_server import Answer, LlmServer, Reply, completion, llm_server

PROMPT = [Message("system", "Explain."), Message("user", "Text with 42 characters, more or less, in it.")]
KEY = "sk-very-secret-key"


async def ask(server: LlmServer, **settings: Any) -> ModelAnswer:
    own = Settings(llm_url=server.url, llm_api_key=SecretStr(KEY), **{"llm_timeout": 5, **settings})
    async with LlmClient(own, "small", first_wait=0) as client:
        return await client.ask(PROMPT, max_tokens=50)


def one_after_the_other(*replies: Reply) -> Answer:
    waiting: Iterator[Reply] = iter(replies)
    return lambda _request: next(waiting)


async def test_an_answer_has_its_text_and_its_tokens() -> None:
    async with llm_server(lambda _request: completion("Explanation: rivers")) as server:
        assert await ask(server) == ModelAnswer("Explanation: rivers", True, 100, 10)
        server.answer = lambda _request: completion("Explanation: riv", finish="length", usage=False)
        cut = await ask(server)
    assert (cut.finished, cut.tokens_in, cut.tokens_out) == (False, 14, 4)
    assert server.requests[0]["model"] == "small"
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Explain."}
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


async def test_429_is_asked_again_after_the_pause_that_it_names() -> None:
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    replies = (
        Reply.error(429, "slow down", **{"Retry-After": "0"}),
        Reply.error(429, "slow down", **{"Retry-After": past}),
        Reply.error(429, "slow down"),
        completion("yes"),
    )
    async with llm_server(one_after_the_other(*replies)) as server:
        assert (await ask(server)).text == "yes"
        server.answer = lambda _request: Reply.error(429, "quota", **{"Retry-After": "86400"})
        with pytest.raises(EndpointUnusable, match="asks to wait 86400 s"):
            await ask(server)
        server.answer = lambda _request: Reply.error(429, "quota", **{"Retry-After": "0"})
        with pytest.raises(EndpointUnusable, match="SEESAE_LLM_CONCURRENCY"):
            await ask(server)
    assert len(server.requests) == len(replies) + 1 + ATTEMPTS


async def test_what_may_pass_is_tried_again_and_then_stated() -> None:
    async with llm_server(
        one_after_the_other(Reply.error(503, "busy"), Reply(completion("half").body, cut=True), completion("whole"))
    ) as server:
        assert (await ask(server)).text == "whole"
        server.answer = lambda _request: Reply.error(500, "broken")
        with pytest.raises(RequestFailed, match=f"answered 500 .“broken”., {ATTEMPTS} times"):
            await ask(server)
    with pytest.raises(RequestFailed, match=r"could not be reached .ConnectError."):
        await ask(server)


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async def never(_request: dict[str, Any]) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with llm_server(never) as server:
        with pytest.raises(RequestFailed, match=r"within 0.05 s, 5 times"):
            await ask(server, llm_timeout=0.05)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>proxy error</html>",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b"\xff\x00",
    ],
)
async def test_nonsense_fails_one_request(body: bytes) -> None:
    async with llm_server(lambda _request: Reply(body)) as server:
        with pytest.raises(RequestFailed, match="not a chat completion"):
            await ask(server)
    assert len(server.requests) == 1


async def test_an_answer_without_end_is_not_read_to_it() -> None:
    async with llm_server(lambda _request: Reply(b"x" * 1_100_000)) as server:
        with pytest.raises(RequestFailed, match="larger than 1,000,000 bytes"):
            await ask(server)


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "SEESAE_LLM_API_KEY"), (404, "SEESAE_LLM_URL"), (307, "SEESAE_LLM_URL")]
)
async def test_a_wrong_key_or_address_ends_at_once_and_shows_no_secret(
    status: int, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = Reply.error(status, f"Incorrect key {KEY}", location="http://127.0.0.1:9/elsewhere")
    async with llm_server(lambda _request: refused) as server:
        with structlog.testing.capture_logs() as logs, pytest.raises(EndpointUnusable, match=advice) as caught:
            await ask(server)
    assert len(server.requests) == 1
    assert KEY not in str(caught.value) + str(logs) + "".join(capsys.readouterr())
    assert KEY not in repr(Settings(llm_url=server.url, llm_api_key=SecretStr(KEY)))


async def test_a_refused_request_fails_alone() -> None:
    async with llm_server(lambda _request: Reply.error(400, "context too long")) as server:
        with pytest.raises(RequestFailed, match="context too long"):
            await ask(server)
    assert len(server.requests) == 1


async def test_parameters_that_a_newer_model_refuses_are_changed() -> None:
    def picky(request: dict[str, Any]) -> Reply:
        if "max_tokens" in request:
            return Reply.error(400, "'max_tokens' is not supported. Use 'max_completion_tokens' instead.")
        if "temperature" in request:
            return Reply.error(400, "'temperature' does not support 0 with this model.")
        return completion("yes")

    async with llm_server(picky) as server:
        assert (await ask(server)).text == "yes"
    assert server.requests[-1]["max_completion_tokens"] == 50


async def test_only_so_many_requests_are_under_way() -> None:
    async def slow(_request: dict[str, Any]) -> Reply:
        for _ in range(20):
            await asyncio.sleep(0)
        return completion("yes")

    async with (
        llm_server(slow) as server,
        LlmClient(Settings(llm_url=server.url, llm_concurrency=2), "small") as client,
    ):
        await asyncio.gather(*(client.ask(PROMPT, max_tokens=5) for _ in range(8)))
    assert server.most_at_once == 2
    assert "authorization" not in server.headers[0]


def test_settings_say_whom_to_ask_and_what_it_costs() -> None:
    with pytest.raises(Unprocessable, match="SEESAE_LLM_URL"):
        model_name(Settings())
    with pytest.raises(Unprocessable, match="SEESAE_LLM_MODEL"):
        model_name(Settings(llm_url="http://127.0.0.1:1"))
    assert model_name(Settings(llm_url="http://127.0.0.1:1", llm_model="a"), "b") == "b"
    assert price(Settings(), 10, 10) is None
    assert price(Settings(llm_price_in=2, llm_price_out=10), 1_000_000, 100_000) == 3.0
