"""Monitors as the API reads and writes them: what makes one, its candidates and figures, checks, alerts."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.inference_messages import ChatMessage
from app.services.monitor_checks import MAX_TEXTS
from app.services.monitors import MAX_NOTE, MAX_NOTES

On = Literal["features", "direction", "probe"]


class TextsOfSet(BaseModel):
    """A text set, or the texts of one label of it."""

    model_config = ConfigDict(extra="forbid")

    set: Annotated[str, Field(min_length=1, max_length=100, examples=["toxicity"])]
    label: Annotated[str | None, Field(max_length=100, examples=["toxic"])] = None


AnySide = TextsOfSet | Annotated[str, Field(min_length=1, max_length=200, description="`SET` or `SET:LABEL`.")]


class MonitorIn(BaseModel):
    """A monitor to make."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=100, examples=["toxic-text"])]
    sae: Annotated[str, Field(description="Slug of the SAE.", examples=["smollm2-135m-l9-batchtopk-4096"])]
    on: Annotated[On | None, Field(description="Null takes the best candidate by the calibration texts.")] = None
    features: Annotated[
        list[Annotated[int, Field(ge=0, le=MAX_INTEGER)]] | None,
        Field(min_length=1, max_length=64, description="Numbers of the features; null lets the training texts choose."),
    ] = None
    direction: Annotated[
        list[float] | None,
        Field(min_length=1, max_length=75_000, description="A direction to watch, as many numbers as the SAE reads."),
    ] = None
    positive: Annotated[AnySide | None, Field(description="Texts that should alert; null takes those of a recipe.")] = (
        None
    )
    benign: Annotated[AnySide | None, Field(description="Texts that should not; they set the threshold.")] = None
    fpr: Annotated[float, Field(ge=0.0001, le=0.5, description="Share of benign texts that may alert.")] = 0.01
    tokens: Annotated[Literal["all", "user", "assistant", "last"], Field(description="Tokens that are watched.")] = (
        "all"
    )
    pool: Annotated[
        Literal["max", "mean", "top", "ema"], Field(description="How the activations of tokens become one.")
    ] = "max"
    positive_elsewhere: Annotated[AnySide | None, Field(description="Positive texts of another origin.")] = None
    benign_elsewhere: Annotated[AnySide | None, Field(description="Benign texts of another origin.")] = None
    keep_text: Annotated[bool, Field(description="Keep the texts of alerts; by default scores alone.")] = False
    max_tokens: Annotated[int, Field(ge=8, le=8192, description="Most tokens per text that are read.")] = 512


class MonitorChange(BaseModel):
    """What of a monitor is to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["ready", "paused"] | None = None
    keep_text: Annotated[bool | None, Field(description="Keep the texts of alerts from now on.")] = None
    notes: Annotated[str | None, Field(max_length=MAX_NOTES)] = None
    candidate: Annotated[
        str | None, Field(max_length=40, description="Another candidate, as long as no text was scored.")
    ] = None


class RunOut(BaseModel):
    """The run that does it."""

    run: int
    state: str


class MonitorSummary(BaseModel):
    """A monitor in a list."""

    id: int
    name: str
    state: Annotated[Literal["ready", "paused"], Field(description="A paused monitor scores nothing.")]
    sae: str
    sae_state: Annotated[
        Literal["there", "deleted", "retrained"],
        Field(description="A monitor runs from its own directions, whatever becomes of its SAE."),
    ]
    model: str
    model_deleted: bool
    on: Annotated[On, Field(description="What is watched.")]
    candidate: str
    threshold: float
    fpr: Annotated[float, Field(description="The false-positive rate that the threshold was set for.")]
    tokens: str
    pool: str
    checked: Annotated[int, Field(description="Texts that were scored.")]
    alerts: int
    unacknowledged: int
    last_alert: datetime | None
    owner: str
    created_at: datetime


class CalibrationOut(BaseModel):
    """The benign texts that the threshold rests on; `interval` is Clopper–Pearson's, 95 %, of the rate above it."""

    texts: int
    fpr: float
    exceeding: int
    interval: tuple[float, float]


class LiveOut(CalibrationOut):
    """The same of texts that are followed token by token, which alert at the first above the threshold."""

    threshold: Annotated[float, Field(description="What watches a text grow alerts above it: the endpoint, `watch`.")]
    on_the_way: Annotated[
        int, Field(description="Of the texts, those above the threshold of whole texts at any of their tokens.")
    ]
    test: Annotated[dict[str, Any], Field(description="The test texts, of which each counts with its largest score.")]


class CandidateOut(BaseModel):
    """One candidate; `test` and `out_of_distribution` are as docs/monitoring.md describes them."""

    name: str
    title: str
    runs: Annotated[bool, Field(description="False for words and length, which do not read a model's activations.")]
    auroc: float
    auroc_interval: tuple[float, float]
    recall_at_fpr: list[dict[str, Any]]
    validation_auroc: Annotated[float, Field(description="On the calibration texts; candidates are chosen by it.")]
    threshold: Annotated[float, Field(description="Of whole texts.")]
    calibration: CalibrationOut
    live: Annotated[LiveOut | None, Field(description="Null of what does not read a model, and of older monitors.")]
    test: dict[str, Any]
    out_of_distribution: dict[str, Any] | None


class DriftOut(BaseModel):
    """The newest scores beside those of the calibration."""

    texts: int
    statistic: Annotated[float, Field(description="Largest distance of the cumulative distributions (KS).")]
    p_value: float
    alerts: int
    alert_p_value: Annotated[float, Field(description="Two-sided binomial test against the rate asked for.")]
    has_drifted: Annotated[bool, Field(description="True if either p is below 0.005.")]


class MonitorOut(MonitorSummary):
    """A monitor with its figures."""

    features: list[dict[str, Any]]
    positive: str
    benign: str
    elsewhere: list[str] | None
    calibration: CalibrationOut
    live: Annotated[
        LiveOut | None,
        Field(description="Of texts that grow. Null of a monitor from before there was one: it has one threshold."),
    ]
    test: dict[str, Any]
    out_of_distribution: dict[str, Any] | None
    baselines: Annotated[list[CandidateOut], Field(description="What does without the SAE.")]
    candidates: list[CandidateOut]
    cautions: Annotated[list[str], Field(description="What somebody who uses it has to know.")]
    drift: DriftOut | None
    keep_text: bool
    notes: str
    run: int | None


class MonitorFileOut(BaseModel):
    """The file of a monitor. It holds all vectors in base64; docs/monitoring.md describes it."""

    model_config = ConfigDict(extra="allow")

    format: str
    name: str
    model: str
    model_sha256: Annotated[str, Field(description="Hash of the model's weights.")]
    hook: str
    tokens: str
    pool: str
    threshold: float
    special_token_ids: list[int]
    prepend_bos: bool
    detector: dict[str, Any]
    calibration: dict[str, Any] | None
    live: Annotated[dict[str, Any] | None, Field(description="Calibration of texts that grow token by token.")]


class MonitorsOut(BaseModel):
    """One page of monitors, newest first."""

    monitors: list[MonitorSummary]
    next_cursor: str | None


class CheckIn(BaseModel):
    """One text, one chat, or several texts."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    chat: Annotated[list[ChatMessage] | None, Field(min_length=1, max_length=200)] = None
    texts: Annotated[list[str] | None, Field(min_length=1, max_length=MAX_TEXTS)] = None

    @model_validator(mode="after")
    def _is_one(self) -> "CheckIn":
        if sum(value is not None for value in (self.text, self.chat, self.texts)) != 1:
            raise ValueError("Give one of text, chat and texts.")
        return self


class FeatureValue(BaseModel):
    """A feature's largest activation on a text."""

    feature: int
    activation: float


class PositionOut(BaseModel):
    """A watched token, and its score alone."""

    position: int
    token: str
    score: float


class CheckedOut(BaseModel):
    """A text's score; it alerts above the threshold."""

    score: float
    threshold: float
    alert: bool
    alert_id: int | None
    positions: Annotated[list[PositionOut], Field(description="Positions count from the first token, BOS included.")]
    features: list[FeatureValue]
    probe_score: Annotated[float | None, Field(description="Score by the best linear probe on raw activations.")]
    probe_threshold: float | None


class ChecksOut(BaseModel):
    """Scores of texts, in order."""

    monitor: str
    results: list[CheckedOut]


class ScanIn(BaseModel):
    """A text set, or a file of this machine."""

    model_config = ConfigDict(extra="forbid")

    textset: AnySide | None = None
    file: Annotated[str | None, Field(min_length=1, max_length=1000)] = None


class AlertOut(BaseModel):
    """An alert; `text` and the tokens' texts are there where the monitor keeps them."""

    id: int
    score: float
    threshold: float
    source: Literal["check", "scan", "live"]
    run: int | None
    place: str
    sha256: Annotated[str, Field(description="Of the text.")]
    text: str | None
    tokens: list[dict[str, Any]]
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    note: str
    created_at: datetime


class AlertsOut(BaseModel):
    """One page of alerts, newest first."""

    alerts: list[AlertOut]
    next_cursor: str | None


class AcknowledgeIn(BaseModel):
    """What somebody says of an alert that they have seen."""

    model_config = ConfigDict(extra="forbid")

    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""
