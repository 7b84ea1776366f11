"""Client of the inference process."""

import asyncio
import copy
import json
import time
from collections.abc import AsyncGenerator
from hashlib import blake2b
from http import HTTPStatus
from secrets import token_hex
from typing import NoReturn, TypeVar

import httpx
import structlog
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import Receive

from app.asgi import until_gone
from app.errors import Busy, ClientGone, Loading, NotFound, TooLarge, Unavailable, Unprocessable, UserError
from app.services.inference_messages import (
    AttributeAnswer,
    AttributeRequest,
    BlindItemsAnswer,
    BlindItemsRequest,
    CompletionEvent,
    CompletionRequest,
    EditAnswer,
    EditRequest,
    ExamplesAnswer,
    ExamplesRequest,
    GenerateRequest,
    GenerationEvent,
    GenerationFailed,
    ProbeAnswer,
    ProbeRequest,
    PromptAnswer,
    PromptRequest,
    ScoreAnswer,
    ScoreRequest,
    SweepEvent,
    SweepRequest,
    TextsAnswer,
    TextsRequest,
)
from app.services.inference_status import SECRET_HEADER
from app.settings import Settings
from app.tls import authorities

log = structlog.get_logger("web")

CLIENT_HEADER = "X-SeeSAE-Client"
"""Holds who a request is for, so that visitors take turns; nobody can read from it who that is."""

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 120.0
"""A long text on a slow machine, after others that came before it."""
_PATIENCE_SECONDS = 1.5
"""An answer that takes longer makes the client ask whether the process is up at all."""
_START_SECONDS = 120.0
"""A process that has not answered for that long after its start is not starting any more."""
_SILENT_SECONDS = 30.0
"""One that had answered, and is silent for that long, hangs: within this time a new process would answer."""
_GAP_SECONDS = 30.0
"""After that long without a look, silence is counted from the start: it may have answered others in between."""
_METRICS_SECONDS = 1.0

_ERRORS: dict[int, type[UserError]] = {
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    HTTPStatus.UNPROCESSABLE_ENTITY: Unprocessable,
    HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
}


class InferenceDown(Unavailable):
    """The inference process does not answer.

    Args:
        seconds: for how long it has not, where that is known.
    """

    def __init__(self, seconds: float | None = None) -> None:
        since = "is not answering" if seconds is None else f"has not answered for {seconds:.0f} s"
        remedy = (
            "Try again in a moment. If it stays away, look at its log, which seesae serve names."
            if seconds is None
            else "It hangs, or cannot start: look at its log, which seesae serve names, and end it. seesae serve "
            "starts it again."
        )
        super().__init__(
            f"The inference process {since}, so no text can be probed right now; the rest of the site works. {remedy}"
        )


_GENERATION: TypeAdapter[GenerationEvent] = TypeAdapter(GenerationEvent)
_COMPLETION: TypeAdapter[CompletionEvent] = TypeAdapter(CompletionEvent)
_SWEEP: TypeAdapter[SweepEvent] = TypeAdapter(SweepEvent)


Answer = TypeVar("Answer", bound=BaseModel)
Event = TypeVar("Event", bound=BaseModel)


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
            verify=authorities(),
            trust_env=False,  # a proxy for the internet does not reach a local process
        )

        self._contact = _Contact()
        # The same in every web process that shares the secret: a visitor is one client, whichever process answers.
        self._salt = blake2b((secret or token_hex()).encode(), digest_size=16, person=b"clients").digest()
        self._receive: Receive | None = None
        self._headers = {"Content-Type": "application/json"}

    def for_client(self, receive: Receive, client: str = "") -> "InferenceClient":
        """Return this client for one request of the site.

        Args:
            receive: of that request, with whose sender the work is dropped.
            client: the sender, who takes turns with others; what is sent of it is a hash with a salt.
        """
        bound = copy.copy(self)
        bound._receive = receive
        key = blake2b(client.encode(), key=self._salt, digest_size=8).hexdigest()
        bound._headers = self._headers | {CLIENT_HEADER: key}
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

    async def probe_prompt(self, request: PromptRequest) -> PromptAnswer:
        """Run a prompt through several SAEs; raises as `_ask`."""
        return await self._ask("/prompt", request, PromptAnswer)

    async def sample_examples(self, request: ExamplesRequest) -> ExamplesAnswer:
        """Sample examples from the activation store; raises as `_ask`."""
        return await self._ask("/examples", request, ExamplesAnswer)

    async def draw_blind_items(self, request: BlindItemsRequest) -> BlindItemsAnswer:
        """Draw a blind test from the activation store; raises as `_ask`."""
        return await self._ask("/blind", request, BlindItemsAnswer)

    async def activations_on_texts(self, request: TextsRequest) -> TextsAnswer:
        """Compute one feature on some texts; raises as `_ask`."""
        return await self._ask("/texts", request, TextsAnswer)

    async def attribute(self, request: AttributeRequest) -> AttributeAnswer:
        """Attribute an output token of a prompt to features; raises as `_ask`."""
        return await self._ask("/attribute", request, AttributeAnswer)

    async def edit(self, request: EditRequest) -> EditAnswer:
        """Write interventions as the file of an edit; raises as `_ask`."""
        return await self._ask("/edit", request, EditAnswer)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Score texts with monitors; raises as `_ask`."""
        return await self._ask("/score", request, ScoreAnswer)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerationEvent]:
        """Generate with and without interventions, as it goes; raises as `_stream`."""
        return self._stream("/generate", request, _GENERATION)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[CompletionEvent]:
        """Continue a text or a conversation once, as it goes; raises as `_stream`."""
        return self._stream("/complete", request, _COMPLETION)

    def sweep(self, request: SweepRequest) -> AsyncGenerator[SweepEvent]:
        """Measure interventions at several strengths, one after the other; raises as `_stream`."""
        return self._stream("/sweep", request, _SWEEP)

    async def _stream(self, path: str, request: BaseModel, kind: TypeAdapter[Event]) -> AsyncGenerator[Event]:
        """Send a request, and yield the events of its answer; raises as `_ask`, and what stops it half-way too.

        Whoever stops reading must close the generator, so that the work ends.
        """
        if not self._configured:
            raise InferenceDown
        try:
            async with self._client.stream("POST", path, content=_encoded(request), headers=self._headers) as answer:
                if answer.status_code != HTTPStatus.OK:
                    await answer.aread()
                    _raise(answer)
                self._contact.answered()
                async for line in answer.aiter_lines():
                    event = kind.validate_json(line)
                    if isinstance(event, GenerationFailed):
                        raise Unavailable(event.detail)
                    yield event
        except (httpx.TransportError, ValidationError) as error:
            self._contact.lost()
            log.warning("inference_unreachable", error=type(error).__name__)
            raise InferenceDown from None

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
            self._contact.lost()
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
        answer = asyncio.create_task(self._client.post(path, content=content, headers=self._headers))
        gone = asyncio.create_task(self._gone())
        try:
            await asyncio.wait({answer, gone}, timeout=_PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not gone.done():
                await self._check_alive()
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientGone
            self._contact.answered()
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()

    async def _check_alive(self) -> None:
        """Tell a process that works from one that is starting, whose socket takes connections before it does.

        Raises:
            Loading: it is starting, or may be.
            InferenceDown: it has been silent for longer than a start takes.
        """
        try:
            await self._client.get("/healthz", timeout=_PATIENCE_SECONDS)
        except httpx.TransportError:
            raise self._contact.silent() from None

    async def metrics(self) -> str | None:
        """Return its metrics in Prometheus' text format; None if it does not answer soon."""
        if not self._configured:
            return None
        try:
            response = await self._client.get("/metrics", timeout=_METRICS_SECONDS)
        except httpx.TransportError:
            return None
        return response.text if response.status_code == HTTPStatus.OK else None


class _Contact:
    """History of the answers of the inference process: it tells one that starts from one that hangs."""

    def __init__(self) -> None:
        self._seen = False
        """It has answered, and no connection broke since: this process was up."""
        self._silent: float | None = None
        """When it was first found silent, of late."""
        self._last = 0.0
        """When it was last found silent."""
        self._expected: float | None = None

    def answered(self) -> None:
        """Note that it answers."""
        if self._silent is not None and not self._seen:
            self._expected = time.monotonic() - self._silent
        self._seen, self._silent = True, None

    def lost(self) -> None:
        """Note that a connection broke: the process has ended, and another may be starting."""
        self._seen = False

    def silent(self) -> Unavailable:
        """Note that it takes connections and does not answer; return the error that says so."""
        now = time.monotonic()
        if self._silent is None or now - self._last > _GAP_SECONDS:
            self._silent = now
        self._last = now
        elapsed = now - self._silent
        if elapsed > (_SILENT_SECONDS if self._seen else max(_START_SECONDS, 3 * (self._expected or 0))):
            return InferenceDown(elapsed)
        if self._seen:
            return Loading("The inference process does not answer; it may be starting again", elapsed, self._expected)
        return Loading("The inference process is starting", elapsed, self._expected)


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
    if told["title"] == Busy.title:
        raise Busy(int(response.headers["Retry-After"]))
    error = kind(str(told["detail"]))
    if isinstance(error, Unavailable):
        error.title = str(told["title"])
        error.retry_after = int(response.headers.get("Retry-After", error.retry_after))
    raise error
