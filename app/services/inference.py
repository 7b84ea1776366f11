"""Client of the inference process, and the requests and answers that it exchanges.

The types of requests and answers are here, not in `app.inference`, so that the site does not import torch.
"""

import asyncio
import copy
import json
import time
from http import HTTPStatus
from typing import Literal, NoReturn, TypeVar

import httpx
import structlog
from pydantic import BaseModel, Field, ValidationError
from starlette.types import Receive

from app.asgi import until_gone
from app.errors import ClientGone, Loading, NotFound, TooLarge, Unavailable, Unprocessable, UserError
from app.queries.examples import StoredExample
from app.settings import Settings

log = structlog.get_logger("web")

SECRET_HEADER = "X-SeeSAE-Secret"  # noqa: S105 - the header's name

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 120.0
"""A long text on a slow machine, after others that came before it."""
_PATIENCE_SECONDS = 1.5
"""An answer that takes longer makes the client ask whether the process is up at all."""
_JSON = {"Content-Type": "application/json"}

_ERRORS: dict[int, type[UserError]] = {
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    HTTPStatus.UNPROCESSABLE_ENTITY: Unprocessable,
    HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
}


class InferenceDown(Unavailable):
    """The inference process does not answer."""

    def __init__(self) -> None:
        super().__init__(
            "The inference process is not answering, so no text can be probed right now; the rest of the site works. "
            "Try again in a moment. If it stays away, look at its log, which seesae serve names."
        )


class Preloaded(BaseModel):
    """The model that the inference process loads when it starts; `waiting` until it is known which."""

    state: Literal["waiting", "nothing", "loading", "ready", "failed"] = "waiting"
    model: str = ""
    reason: str = ""
    """Why it cannot be loaded."""


class ProbeRequest(BaseModel):
    """A prompt to run through an SAE, given by its slug, and its model."""

    sae: str
    text: str


class ProbeAnswer(BaseModel):
    """Activations of an SAE's features on a prompt.

    Its activations are columns of equal length, by feature and then by position: transferring thousands of small
    objects would take longer than the model does.
    """

    token_ids: list[int]
    ends: list[int] = Field(description="Characters of the prompt up to the end of each token.")
    counted: list[bool] = Field(description="False for BOS and special tokens, whose activations are left out.")
    features: list[int] = Field(description="Feature of each nonzero activation.")
    positions: list[int] = Field(description="Position of its token.")
    activations: list[float]
    percentiles: list[float] | None = Field(description="As app.inference.ranking defines them; None without an index.")
    ranked: list[int] = Field(description="Every active feature once, best first.")
    maxima: list[float] = Field(description="Maximum activations of these features in the index; 0 without one.")


class ExamplesRequest(BaseModel):
    """A sample of a feature's activations in (low, high], from one sequence if it is named."""

    sae: str
    feature: int
    low: float
    high: float
    sequence: int | None = None
    limit: int
    seed: int = 0


class ExamplesAnswer(BaseModel):
    """The number of activations in the range, and the sampled examples, strongest first."""

    index: int = Field(description="Id of the index whose store they come from.")
    found: int
    examples: list[StoredExample]


class TextsRequest(BaseModel):
    """Texts on which to compute one feature."""

    sae: str
    feature: int
    texts: list[str]


class TextActivations(BaseModel):
    """One text's tokens and the feature's activation on each."""

    token_ids: list[int]
    ends: list[int] = Field(description="Characters of the text up to the end of each token.")
    counted: list[bool]
    activations: list[float]


class TextsAnswer(BaseModel):
    """The texts, in the order of the request."""

    texts: list[TextActivations]


Answer = TypeVar("Answer", bound=BaseModel)


class InferenceClient:
    """HTTP client of the inference process, one per web process.

    `transport` replaces the network, such as by an application in the same process.
    """

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._configured = settings.inference_url is not None
        secret = settings.inference_secret.get_secret_value() if settings.inference_secret else ""
        self._client = httpx.AsyncClient(
            base_url=settings.inference_url or "",
            headers={SECRET_HEADER: secret},
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            transport=transport,
            trust_env=False,  # a proxy for the internet does not reach a local process
        )

        self._start = _Start()
        self._receive: Receive | None = None

    def for_client(self, receive: Receive) -> "InferenceClient":
        """Return this client for one request of the site: its work is dropped when the sender of that request goes."""
        bound = copy.copy(self)
        bound._receive = receive
        return bound

    async def _gone(self) -> None:
        if self._receive is None:
            await asyncio.Future()
        else:
            await until_gone(self._receive)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def probe(self, request: ProbeRequest) -> ProbeAnswer:
        """Run a prompt; raises as `_ask`."""
        return await self._ask("/probe", request, ProbeAnswer)

    async def sample_examples(self, request: ExamplesRequest) -> ExamplesAnswer:
        """Sample examples from the activation store; raises as `_ask`."""
        return await self._ask("/examples", request, ExamplesAnswer)

    async def activations_on_texts(self, request: TextsRequest) -> TextsAnswer:
        """Compute one feature on some texts; raises as `_ask`."""
        return await self._ask("/texts", request, TextsAnswer)

    async def _ask(self, path: str, request: BaseModel, answer: type[Answer]) -> Answer:
        """Send a request, and parse the answer.

        Raises:
            Unprocessable: the request has a number that JSON cannot hold.
            Loading: the process is starting, or it is loading the model.
            Busy: too many requests are waiting.
            InferenceDown: it does not answer, not in time, or in the format of another version.
            ClientGone: whoever the request is for has gone.
            UserError: the inference process refused the request.
        """
        if not self._configured:
            raise InferenceDown
        content = _encoded(request)
        try:
            response = await self._post(path, content)
        except httpx.TransportError as error:
            log.warning("inference_unreachable", error=type(error).__name__)
            raise InferenceDown from None
        if response.status_code != HTTPStatus.OK:
            _raise(response)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError:
            log.error("inference_answer_not_understood")  # noqa: TRY400 - the exception quotes the answer
            raise InferenceDown from None

    async def _post(self, path: str, content: bytes) -> httpx.Response:
        """Wait for the answer while the process is alive and the client is there; else drop the connection."""
        answer = asyncio.create_task(self._client.post(path, content=content, headers=_JSON))
        gone = asyncio.create_task(self._gone())
        try:
            await asyncio.wait({answer, gone}, timeout=_PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not gone.done():
                await self._check_alive()
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientGone
            self._start.ended()
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()

    async def _check_alive(self) -> None:
        """Tell a process that works from one that is starting, whose socket takes connections before it does.

        Raises:
            Loading: it is starting.
        """
        try:
            await self._client.get("/healthz", timeout=_PATIENCE_SECONDS)
        except httpx.TransportError:
            self._start.seen()
            raise Loading("The inference process is starting", self._start.elapsed, self._start.expected) from None


class _Start:
    """The start of the inference process: seconds so far, and seconds that the last one took."""

    expected: float | None = None
    _began: float | None = None

    @property
    def elapsed(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def seen(self) -> None:
        """Note that it is starting."""
        self._began = self._began or time.monotonic()

    def ended(self) -> None:
        """Note that it answers."""
        if self._began is not None:
            self.expected, self._began = self.elapsed, None


def _encoded(request: BaseModel) -> bytes:
    """Return the request as JSON.

    Raises:
        Unprocessable: a number in it is infinite or not a number, or a text is not Unicode.
    """
    try:
        return json.dumps(request.model_dump(), allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise Unprocessable(
            "A number in the request is infinite or not a number, or a text has half a character: give finite numbers "
            "and whole characters."
        ) from None


def _raise(response: httpx.Response) -> NoReturn:
    """Raise the exception for its problem; for a status that reports a fault, raise `InferenceDown`."""
    kind = _ERRORS.get(response.status_code)
    if kind is None:
        log.warning("inference_failed", status=response.status_code)
        raise InferenceDown
    told = response.json()
    if "loading" in told:
        raise Loading(**told["loading"])
    error = kind(str(told["detail"]))
    if isinstance(error, Unavailable):
        error.title = str(told["title"])
        error.retry_after = int(response.headers.get("Retry-After", error.retry_after))
    raise error
