"""Client of one OpenAI-compatible endpoint: chat completions over plain HTTP, with time-outs, limits and retries."""

import asyncio
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from pydantic import BaseModel, Field, ValidationError

from app.errors import Unavailable, Unprocessable
from app.queries.suggestions import ModelAnswer
from app.redaction import HIDDEN, redact
from app.services.texts import one_line
from app.settings import Settings, is_loopback

log = structlog.get_logger("llm")

ATTEMPTS = 5
"""Attempts at one request, the first included."""
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 120.0
"""Where the endpoint asks for a longer pause, the run ends and says so."""
_MAX_ANSWER_BYTES = 1_000_000
_QUOTED = 200
"""Characters that are quoted of an endpoint's own message."""
CHARACTERS_PER_TOKEN = 4
"""Of English, roughly: for estimates, and for endpoints that do not count."""


class EndpointUnusable(Unavailable):
    """The endpoint cannot be used as it is set: any further request would fail too."""

    title = "The model does not answer"


class RequestFailed(Unavailable):
    """One request failed after all attempts; others may succeed."""

    title = "No answer of the model"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


class _Text(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Text
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0, lt=2**31)
    completion_tokens: int = Field(default=0, ge=0, lt=2**31)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def estimate_tokens(messages: list[Message]) -> int:
    """Estimate the tokens of a prompt from its characters."""
    return math.ceil(sum(len(message.content) for message in messages) / CHARACTERS_PER_TOKEN)


def price(settings: Settings, tokens_in: int, tokens_out: int) -> float | None:
    """Return what so many tokens cost in US dollars; None where no price is set."""
    if settings.llm_price_in is None and settings.llm_price_out is None:
        return None
    return (tokens_in * (settings.llm_price_in or 0.0) + tokens_out * (settings.llm_price_out or 0.0)) / 1e6


def model_name(settings: Settings, model: str | None = None) -> str:
    """Return the name of the model to ask: `model`, else that of the settings.

    Raises:
        Unprocessable: no endpoint is set, or no model is named.
    """
    if settings.llm_url is None:
        raise Unprocessable(
            "No model is set that could be asked. Set SEESAE_LLM_URL and SEESAE_LLM_MODEL to an OpenAI-compatible "
            "endpoint, or take suggestions from `statistics`, which need none."
        )
    name = model or settings.llm_model
    if name is None:
        raise Unprocessable("No model is named. Set SEESAE_LLM_MODEL, or give the `model`.")
    return name


class LlmClient:
    """Asks one model. Close it, or use it as an async context manager.

    Args:
        settings: with the endpoint's address, key, limits.
        model: name of the model at the endpoint.
        first_wait: seconds before the second attempt, doubled before each later one.
        transport: replaces the network.
    """

    def __init__(
        self,
        settings: Settings,
        model: str,
        *,
        first_wait: float = _FIRST_WAIT_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        assert settings.llm_url is not None, "model_name() refuses settings without an endpoint"
        self.model = model
        self.endpoint = settings.llm_url.rstrip("/").removesuffix("/chat/completions")
        self._key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else ""
        self._timeout = settings.llm_timeout
        self._first_wait = first_wait
        self._turns = asyncio.Semaphore(settings.llm_concurrency)
        self._paused_until = 0.0
        self._limit_name = "max_tokens"
        self._temperature: dict[str, Any] = {"temperature": 0}
        self._client = httpx.AsyncClient(
            base_url=self.endpoint,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=self._timeout,
            transport=transport,
            trust_env=not is_loopback(urlsplit(self.endpoint).hostname or ""),  # no proxy on the way to this machine
        )

    async def __aenter__(self) -> "LlmClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, messages: list[Message], *, max_tokens: int) -> ModelAnswer:
        """Send a conversation and return the answer, after several attempts where it must be.

        Raises:
            EndpointUnusable: the endpoint refuses the key, the model or the address, or stays over its limit.
            RequestFailed: it refuses this conversation, does not answer it in time, or answers nonsense.
        """
        problem, limited = "", False
        for attempt in range(ATTEMPTS):
            await self._wait_for_pause()
            try:
                async with self._turns, asyncio.timeout(self._timeout):
                    status, headers, body = await self._post(messages, max_tokens)
            except (TimeoutError, httpx.TimeoutException):
                problem, limited = f"did not answer within {self._timeout:g} s", False
            except httpx.HTTPError as error:
                problem, limited = f"could not be reached ({type(error).__name__})", False
            else:
                if status == HTTPStatus.OK:
                    return _parse(body, messages)
                problem = f"answered {status}{self._quote(body)}"
                limited = status == HTTPStatus.TOO_MANY_REQUESTS
                if status == HTTPStatus.BAD_REQUEST and self._adapt(body):
                    continue
                self._raise_if_final(status, problem)
                if limited:
                    self._pause(_retry_after(headers), attempt)
                    continue
            log.warning("llm_attempt_failed", attempt=attempt + 1, problem=problem)
            if attempt < ATTEMPTS - 1:
                await asyncio.sleep(self._backoff(attempt))
        if limited:
            raise EndpointUnusable(
                f"The endpoint {problem} {ATTEMPTS} times. Wait until it takes requests again, or lower "
                "SEESAE_LLM_CONCURRENCY; then start the run again: what was answered is kept."
            )
        raise RequestFailed(f"The endpoint {problem}, {ATTEMPTS} times.")

    async def _post(self, messages: list[Message], max_tokens: int) -> tuple[int, httpx.Headers, bytes]:
        request = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            self._limit_name: max_tokens,
            **self._temperature,
        }
        body = bytearray()
        async with self._client.stream("POST", "chat/completions", json=request) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise RequestFailed(f"The endpoint's answer is larger than {_MAX_ANSWER_BYTES:,} bytes.")
        return response.status_code, response.headers, bytes(body)

    def _adapt(self, body: bytes) -> bool:
        """Change the parameters that newer models of the protocol refuse; False if there is nothing to change."""
        if self._limit_name == "max_tokens" and b"max_completion_tokens" in body:
            self._limit_name = "max_completion_tokens"
            return True
        if self._temperature and b"temperature" in body:
            self._temperature = {}
            return True
        return False

    @staticmethod
    def _raise_if_final(status: int, problem: str) -> None:
        """Raise where another attempt would end in the same way."""
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise EndpointUnusable(f"The endpoint {problem}. Check SEESAE_LLM_API_KEY.")
        if status == HTTPStatus.NOT_FOUND or 300 <= status < 400:
            raise EndpointUnusable(f"The endpoint {problem}. Check SEESAE_LLM_URL and the name of the model.")
        if 400 <= status < 500 and status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS):
            raise RequestFailed(f"The endpoint {problem}.")

    def _pause(self, asked: float | None, attempt: int) -> None:
        """Let no request start before the pause that the endpoint asks for is over."""
        seconds = self._backoff(attempt) if asked is None else asked
        if seconds > _LONGEST_WAIT_SECONDS:
            raise EndpointUnusable(
                f"The endpoint asks to wait {seconds:.0f} s before the next request. Start the run again then: what "
                "was answered is kept."
            )
        until = asyncio.get_running_loop().time() + seconds
        self._paused_until = max(self._paused_until, until)

    async def _wait_for_pause(self) -> None:
        left = self._paused_until - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)
            await self._wait_for_pause()  # another request may have been asked to wait for longer

    def _backoff(self, attempt: int) -> float:
        """Return a wait that doubles with each attempt, spread so that requests do not come back all at once."""
        return float(self._first_wait * 2**attempt * random.uniform(0.75, 1.25))

    def _quote(self, body: bytes) -> str:
        """Return the beginning of the endpoint's own message, without secrets."""
        try:
            quoted = httpx.Response(200, content=body).json()["error"]
            quoted = str(quoted["message"] if isinstance(quoted, dict) else quoted)
        except (ValueError, KeyError, TypeError, RecursionError):
            quoted = body[: 4 * _QUOTED].decode(errors="replace")
        if self._key:
            quoted = quoted.replace(self._key, HIDDEN)
        quoted = one_line(redact(quoted))
        return f" (“{quoted[:_QUOTED]}{HIDDEN if len(quoted) > _QUOTED else ''}”)" if quoted else ""


def _parse(body: bytes, messages: list[Message]) -> ModelAnswer:
    """Return the answer in a response.

    Raises:
        RequestFailed: it is not of the protocol.
    """
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        raise RequestFailed("The endpoint's answer is not a chat completion of the OpenAI protocol.") from None
    choice, usage = completion.choices[0], completion.usage
    text = choice.message.content or ""
    return ModelAnswer(
        text=text,
        finished=choice.finish_reason != "length",
        tokens_in=usage.prompt_tokens if usage else estimate_tokens(messages),
        tokens_out=usage.completion_tokens if usage else math.ceil(len(text) / CHARACTERS_PER_TOKEN),
    )


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds that the header `Retry-After` asks for, given as a number or as a date; None without it."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
