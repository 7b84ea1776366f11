"""Client of the inference process, and the requests and answers that it exchanges.

The types of requests and answers are here, not in `app.inference`, so that the site does not import torch.
"""

import asyncio
import copy
import json
import sys
import time
from array import array
from base64 import b64decode, b64encode
from dataclasses import dataclass, fields
from hashlib import blake2b
from http import HTTPStatus
from secrets import token_bytes
from typing import Annotated, Literal, NoReturn, TypeVar

import httpx
import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.types import Receive

from app.asgi import until_gone
from app.errors import ClientGone, Loading, NotFound, TooLarge, Unavailable, Unprocessable, UserError
from app.queries.examples import StoredExample
from app.queries.saes import SaeDetail
from app.settings import Settings

log = structlog.get_logger("web")

SECRET_HEADER = "X-SeeSAE-Secret"  # noqa: S105 - the header's name
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


class Preloaded(BaseModel):
    """The model that the inference process loads when it starts; `waiting` until it is known which."""

    state: Literal["waiting", "nothing", "loading", "ready", "failed"] = "waiting"
    model: str = ""
    reason: str = ""
    """Why it cannot be loaded."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Source and hashes of a model, by which it is loaded and kept in memory; the sizes estimate its memory."""

    name: str
    source: str
    weights_sha256: str
    tokenizer_sha256: str
    n_layers: int
    d_model: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class IndexRef:
    """An index and its number of counted tokens."""

    id: int
    tokens: int


@dataclass(frozen=True, slots=True)
class SaeRef:
    """All that running an SAE needs: requests carry it, so that the inference process reads no rows for it."""

    slug: str
    model: ModelRef
    hook: str
    artifact: str
    weights_sha256: str
    d_in: int
    d_sae: int
    index: IndexRef | None

    @classmethod
    def of(cls, sae: SaeDetail) -> "SaeRef":
        """Return the reference to an SAE that was read from the database."""
        model = ModelRef(**{field.name: getattr(sae.model, field.name) for field in fields(ModelRef)})
        own = {name: getattr(sae, name) for name in ("slug", "hook", "artifact", "weights_sha256", "d_in", "d_sae")}
        index = None if sae.index is None else IndexRef(sae.index.id, sae.index.tokens)
        return cls(model=model, index=index, **own)


RankBy = Literal["percentile", "activation", "rarity"]


class ProbeRequest(BaseModel):
    """A prompt to run through an SAE and its model."""

    sae: SaeRef
    text: str
    rank_by: RankBy = "percentile"


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, Field(min_length=1, max_length=40, examples=["user"])]
    content: Annotated[str, Field(examples=["Who was Marie Curie?"])]


class PromptRequest(BaseModel):
    """A text or a conversation to run through several SAEs of one model, in one forward pass."""

    saes: list[SaeRef]
    text: str = ""
    chat: list[ChatMessage] | None = None
    rank_by: RankBy = "percentile"


def pack(values: bytes) -> str:
    """Return the little-endian bytes of an array as text; decimal numbers take much longer to write and to read."""
    return b64encode(values).decode()


def _unpacked(code: str) -> BeforeValidator:
    """Return what reads an array that `pack` wrote, of this `array` type code, little-endian."""

    def unpack(value: object) -> object:
        if not isinstance(value, str):
            return value
        numbers = array(code, b64decode(value, validate=True))  # ValueError where it is no array
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tolist()

    return BeforeValidator(unpack)


Ints = Annotated[list[int], _unpacked("i")]
"""32-bit integers, packed."""
Floats = Annotated[list[float], _unpacked("d")]
"""64-bit floats, packed."""


class ProbeAnswer(BaseModel):
    """Activations of an SAE's features on a prompt.

    Its activations are columns of equal length, by feature and then by position: transferring thousands of small
    objects would take longer than the model does.
    """

    token_ids: Ints
    ends: Ints = Field(description="Characters of the prompt up to the end of each token.")
    counted: list[bool] = Field(description="False for BOS and special tokens, whose activations are left out.")
    features: Ints = Field(description="Feature of each nonzero activation.")
    positions: Ints = Field(description="Position of its token.")
    activations: Floats
    percentiles: Floats | None = Field(description="As app.inference.ranking defines them; None without an index.")
    ranked: Ints = Field(description="Every active feature once, best first.")
    maxima: Floats = Field(description="Maximum activations of these features in the index; 0 without one.")


class PromptAnswer(BaseModel):
    """A prompt as the model read it, and its activations in each SAE, in the order of the request."""

    text: str = Field(description="A conversation in the model's chat format, or the text itself.")
    roles: list[str | None] = Field(description="Of each token's turn; None outside of a conversation.")
    added: list[bool] = Field(description="True for tokens that the author did not write: BOS, the chat template's.")
    answers: list[ProbeAnswer]


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

    sae: SaeRef
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

        self._contact = _Contact()
        self._salt = token_bytes(16)
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
    error = kind(str(told["detail"]))
    if isinstance(error, Unavailable):
        error.title = str(told["title"])
        error.retry_after = int(response.headers.get("Retry-After", error.retry_after))
    raise error
