"""Requests to the inference process and its answers.

They are here, not in `app.inference`, so that the site does not import torch.
"""

import sys
from array import array
from base64 import b64decode, b64encode
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.queries.examples import StoredExample
from app.queries.models import ModelInfo
from app.queries.saes import SaeDetail
from app.services.blind_items import ITEMS, BlindItem, BlindKind


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

    @classmethod
    def of(cls, model: ModelInfo) -> "ModelRef":
        """Return the reference to a model that was read from the database."""
        return cls(**{field.name: getattr(model, field.name) for field in fields(cls)})


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
        model = ModelRef.of(sae.model)
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


class BlindItemsRequest(BaseModel):
    """A blind test to draw; `without` are sequences that earlier tests showed."""

    sae: str
    feature: int
    kind: BlindKind
    seed: int
    items: int = ITEMS
    without: list[int] = []


class BlindItemsAnswer(BaseModel):
    """The items of a test, in the order in which they are asked."""

    index: int = Field(description="Id of the index whose store they come from.")
    items: list[BlindItem]


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


MAX_TEXTS = 50
"""Of each list of DiffMean: they are read in one turn of the model."""


class DirectionChoice(BaseModel):
    """A direction at the SAE's hook point: a vector, a feature's decoder row, or DiffMean of two lists of texts."""

    model_config = ConfigDict(extra="forbid")

    vector: list[float] | None = Field(
        default=None, max_length=2**18, description="One number per dimension of the hook point."
    )
    feature: int | None = Field(default=None, description="A feature, whose decoder row it is.")
    positive: list[str] | None = Field(
        default=None, max_length=MAX_TEXTS, description="Texts towards which it points (DiffMean)."
    )
    negative: list[str] | None = Field(
        default=None, max_length=MAX_TEXTS, description="Texts from which it points away."
    )

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
        ge=0,
        le=2**63 - 1,
        description="A control: a seed; the change goes along a random direction of equal norm.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.feature is None) == (self.direction is None):
            raise ValueError("An intervention is about a feature or a direction: give one of the two.")
        return self


class PlacedIntervention(InterventionChoice):
    """An intervention, and the place of its SAE in the request."""

    sae: int = 0


class EditRequest(BaseModel):
    """Interventions to write as the file of an edit; `saes` are of one model."""

    saes: list[SaeRef]
    name: str
    interventions: list[PlacedIntervention]


class EditAnswer(BaseModel):
    """The file, as JSON."""

    file: str


class GenerateRequest(BaseModel):
    """A text or a conversation to continue with and without interventions; `saes` are of one model."""

    saes: list[SaeRef]
    text: str = ""
    chat: list[ChatMessage] | None = None
    interventions: list[PlacedIntervention]
    max_new_tokens: int
    temperature: float
    seed: int
    stop: list[str]
    top: int


class SweepRequest(GenerateRequest):
    """A prompt to continue at several strengths; `top` is of no use."""

    values: list[float]
    """Each takes the place of the first intervention's value."""
    control: list[PlacedIntervention] | None
    """Interventions to compare with, whose first one takes the same values."""
    promoted: list[int]
    """Tokens whose rise is measured."""


class GeneratedPrompt(PromptTokens):
    """The prompt, which is sent first."""

    kind: Literal["prompt"] = "prompt"
    text: str = Field(description="A conversation in the model's chat format, or the text itself.")
    roles: list[str | None] = Field(description="Of each token's turn; None outside of a conversation.")


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


class LiveMonitor(BaseModel):
    """A monitor that watches an answer as it is written; `file` is that of `sae_core.monitoring`."""

    name: str
    file: dict[str, Any]


class ScoreRequest(BaseModel):
    """Texts to score with monitors of one model, which needs no SAE."""

    model: ModelRef
    monitors: list[LiveMonitor]
    texts: list[str | list[ChatMessage]]
    max_tokens: int


class MonitorScore(BaseModel):
    """A monitor's score of a text; `positions` are the watched tokens, and `values` the scores of each alone."""

    score: float
    alert: bool
    positions: list[int]
    values: list[float]
    running: list[float] = Field(description="Score of the text up to each watched token.")
    channels: list[float] = Field(description="Largest activation of each feature over the watched tokens.")


class ScoredText(BaseModel):
    """A text as the model read it, and its scores, one per monitor."""

    token_ids: list[int]
    scores: list[MonitorScore]


class ScoreAnswer(BaseModel):
    """Scores of texts, in order."""

    texts: list[ScoredText]


class CompletionRequest(BaseModel):
    """A text or a conversation to continue once; `saes` are of one model, and the first says what stands in front."""

    saes: list[SaeRef]
    text: str = ""
    chat: list[ChatMessage] | None = None
    interventions: list[PlacedIntervention] = []
    edits: list[str] = []
    """Names of saved edits, whose files the inference process reads."""
    monitors: list[LiveMonitor] = []
    on_alert: Literal["alert", "stop", "edit"] = "alert"
    alert_edit: str | None = None
    """Name of the edit that an alert applies."""
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: list[str]
    top: int
    """Likeliest tokens to list for each."""
    fill: bool = False
    """True to write fewer tokens than `max_new_tokens` where the model's context holds no more."""


class LiveAlert(BaseModel):
    """A monitor's score rose above its threshold; said once per monitor and answer."""

    monitor: str
    score: float
    threshold: float
    position: int = Field(description="Of the token after which it did, from the first of the prompt, BOS included.")
    token_id: int
    generated: bool
    tokens: list[tuple[int, int, float]] = Field(
        description="Position, id and own score of each token that the monitor had watched by then."
    )


class Watched(BaseModel):
    """What the monitors found when the model read the prompt, or a token of the answer."""

    scores: dict[str, float] = Field(description="Of the text so far; none of a monitor that has seen no token.")
    alerts: list[LiveAlert]


class CompletionStart(BaseModel):
    """The prompt has been read."""

    kind: Literal["start"] = "start"
    prompt_tokens: int
    watched: Watched | None = None


class ContextExceeded(BaseModel):
    """The prompt, with the tokens that were asked for, is longer than the model's context; nothing follows."""

    kind: Literal["context"] = "context"
    prompt_tokens: int
    max_new_tokens: int
    context: int


class CompletionToken(BaseModel):
    """The next token. `text` joins to the answer: parts of a character wait for its last token."""

    kind: Literal["token"] = "token"
    id: int
    text: str
    log_probability: float
    top: list[tuple[int, float]]
    watched: Watched | None = None


class CompletionEnd(BaseModel):
    """The answer is complete."""

    kind: Literal["end"] = "end"
    reason: Literal["length", "end of text", "stop", "monitor"]
    text: str = Field(description="What the last tokens left of a character.")
    tokens: int = Field(
        description="Tokens that were generated, also those that a stop, a monitor or the end of the text kept back."
    )
    watched: Watched | None = Field(default=None, description="Of the token that a monitor kept back.")


class SweepBaseline(BaseModel):
    """The default model's continuation."""

    kind: Literal["baseline"] = "baseline"
    token_ids: list[int]
    loss: float
    repetition: float


class SweptPoint(BaseModel):
    """Measures at one strength; `sae_core.interventions.sweep` defines them."""

    kind: Literal["point"] = "point"
    control: bool
    value: float
    token_ids: list[int]
    kl: float
    loss: float
    repetition: float
    promoted: float | None


class GenerationFailed(BaseModel):
    """Generation stopped half-way."""

    kind: Literal["failed"] = "failed"
    detail: str


GenerationEvent = Annotated[
    GeneratedPrompt | GeneratedToken | GeneratedShift | GeneratedEnd | GenerationFailed, Field(discriminator="kind")
]
CompletionEvent = Annotated[
    CompletionStart | ContextExceeded | CompletionToken | CompletionEnd | GenerationFailed, Field(discriminator="kind")
]
SweepEvent = Annotated[SweepBaseline | SweptPoint | GenerationFailed, Field(discriminator="kind")]
