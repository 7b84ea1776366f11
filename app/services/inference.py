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
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from hashlib import blake2b
from http import HTTPStatus
from secrets import token_bytes
from typing import Annotated, Literal, NoReturn, Self, TypeVar

import httpx
import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
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
    hook_out: str | None = None
    """Hook point that a transcoder reconstructs."""

    @classmethod
    def of(cls, sae: SaeDetail) -> "SaeRef":
        """Return the reference to an SAE that was read from the database."""
        model = ModelRef(**{field.name: getattr(sae.model, field.name) for field in fields(ModelRef)})
        names = ("slug", "hook", "hook_out", "artifact", "weights_sha256", "d_in", "d_sae")
        own = {name: getattr(sae, name) for name in names}
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


class PromptTokens(BaseModel):
    """Tokens of a prompt."""

    token_ids: Ints
    ends: Ints = Field(description="Characters of the prompt up to the end of each token.")
    counted: list[bool] = Field(description="False for BOS and special tokens, whose activations are left out.")


class ProbeAnswer(PromptTokens):
    """Activations of an SAE's features on a prompt.

    Its activations are columns of equal length, by feature and then by position: transferring thousands of small
    objects would take longer than the model does.
    """

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


class TokenChoice(BaseModel):
    """A token of the vocabulary, by its id or by its text."""

    model_config = ConfigDict(extra="forbid")

    id: int | None = Field(default=None, ge=0)
    token: str | None = Field(
        default=None, description="Its text, with a leading space where it has one.", examples=[" Paris"]
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.id is None) == (self.token is None):
            raise ValueError("Name a token either by its id or by its text.")
        return self


class AttributeRequest(BaseModel):
    """An output token to attribute to the features of some SAEs of one model."""

    saes: list[SaeRef]
    text: str
    position: int | None
    """Of the token after which the model predicts; None for the last."""
    target: TokenChoice | None
    """None for the most probable token."""
    rival: TokenChoice | None
    method: Literal["gradient", "integrated"]
    steps: int
    top: int
    verify: int


class AttributedNode(BaseModel):
    """A feature at a position, and what it contributes to the target, in logits."""

    sae: int = Field(description="Place of its SAE in the request.")
    feature: int
    position: int
    activation: float
    attribution: float
    ablation: float | None = Field(description="Exact change of the target when it alone is ablated.")


class AttributedEdge(BaseModel):
    """An edge between two nodes, which are named by their place in `nodes`."""

    source: int
    target: int
    weight: float


class AttributeAnswer(PromptTokens):
    """Contributions of features to one output token of a prompt."""

    position: int
    target: int
    rival: int | None
    value: float
    predictions: list[tuple[int, float]] = Field(description="Token and probability, most probable first.")
    probabilities: list[float] = Field(description="Of the target, and of the rival if there is one.")
    active: int = Field(description="Active features at positions, listed or not.")
    nodes: list[AttributedNode] = Field(description="Strongest first.")
    features: list[list[float]] = Field(description="Sum over the features of each SAE at each position.")
    errors: list[list[float]] = Field(description="Contribution of the error term of each SAE at each position.")
    explained: float | None
    rank_correlation: float | None
    edges: list[AttributedEdge]
    edges_kept: float


class DirectionChoice(BaseModel):
    """A direction at the SAE's hook point: a vector, a feature's decoder row, or DiffMean of two lists of texts."""

    model_config = ConfigDict(extra="forbid")

    vector: list[float] | None = Field(default=None, description="One number per dimension of the hook point.")
    feature: int | None = Field(default=None, description="A feature, whose decoder row it is.")
    positive: list[str] | None = Field(default=None, description="Texts towards which it points (DiffMean).")
    negative: list[str] | None = Field(default=None, description="Texts from which it points away.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.positive is None) != (self.negative is None):
            raise ValueError("DiffMean needs both lists of texts: positive and negative.")
        if sum(given is not None for given in (self.vector, self.feature, self.positive)) != 1:
            raise ValueError("Give one of: vector, feature, positive and negative texts.")
        return self


class TokenPositions(BaseModel):
    """Single tokens, counted from the first, BOS included."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[int] = Field(min_length=1, max_length=10_000)


class InterventionChoice(BaseModel):
    """One change of a feature or a direction; `sae_core.interventions` defines what each op does."""

    model_config = ConfigDict(extra="forbid")

    op: Literal["ablate", "clamp", "scale", "add"]
    value: float = Field(
        default=0.0, description="The activation (clamp), the factor (scale) or what is added (add), in model units."
    )
    feature: int | None = None
    direction: DirectionChoice | None = None
    positions: Literal["all", "prompt", "generated"] | tuple[int, int] | TokenPositions = Field(
        default="all", description="A part of the text, a range [from, to), or single tokens."
    )
    special_tokens: bool = Field(default=False, description="Act on BOS and other special tokens too.")
    random_direction: int | None = Field(
        default=None,
        description="A control: a seed; the feature's change goes along a random direction of equal norm.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.feature is None) == (self.direction is None):
            raise ValueError("An intervention is about a feature or a direction: give one of the two.")
        return self


class PlacedIntervention(InterventionChoice):
    """An intervention, and the place of its SAE in the request."""

    sae: int = 0


class GenerateRequest(BaseModel):
    """A text to continue with and without interventions; `saes` are of one model."""

    saes: list[SaeRef]
    text: str
    interventions: list[PlacedIntervention]
    max_new_tokens: int
    temperature: float
    seed: int
    stop: list[str]
    top: int


class GeneratedPrompt(PromptTokens):
    """The prompt, which is sent first."""

    kind: Literal["prompt"] = "prompt"


class GeneratedToken(BaseModel):
    """A token of one side, with the likeliest ones at its place."""

    kind: Literal["token"] = "token"
    side: Literal["default", "changed"]
    id: int
    log_probability: float
    top: list[tuple[int, float]]


class GeneratedShift(BaseModel):
    """Change of the prediction after one token of the changed text: tokens with p before and after."""

    kind: Literal["shift"] = "shift"
    position: int
    kl: float
    raised: list[tuple[int, float, float]]
    lowered: list[tuple[int, float, float]]


class GeneratedEnd(BaseModel):
    """A side is complete."""

    kind: Literal["end"] = "end"
    side: Literal["default", "changed"]
    reason: Literal["length", "end of text", "stop"]


class GenerationFailed(BaseModel):
    """Generation stopped half-way."""

    kind: Literal["failed"] = "failed"
    detail: str


GenerationEvent = Annotated[
    GeneratedPrompt | GeneratedToken | GeneratedShift | GeneratedEnd | GenerationFailed, Field(discriminator="kind")
]
_EVENT: TypeAdapter[GenerationEvent] = TypeAdapter(GenerationEvent)


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

    async def attribute(self, request: AttributeRequest) -> AttributeAnswer:
        """Attribute an output token of a prompt to features; raises as `_ask`."""
        return await self._ask("/attribute", request, AttributeAnswer)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerationEvent]:
        """Generate with and without interventions, as it goes; raises as `_ask`, and what stops it half-way too.

        Whoever stops reading must close the generator, so that the work ends.
        """
        if not self._configured:
            raise InferenceDown
        try:
            async with self._client.stream(
                "POST", "/generate", content=_encoded(request), headers=self._headers
            ) as answer:
                if answer.status_code != HTTPStatus.OK:
                    await answer.aread()
                    _raise(answer)
                self._contact.answered()
                async for line in answer.aiter_lines():
                    event = _EVENT.validate_json(line)
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
    error = kind(str(told["detail"]))
    if isinstance(error, Unavailable):
        error.title = str(told["title"])
        error.retry_after = int(response.headers.get("Retry-After", error.retry_after))
    raise error
