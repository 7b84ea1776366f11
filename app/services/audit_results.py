"""What an audit found, as it is stored: every figure with its interval, every change beside its controls."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Interval = tuple[float, float]

MEASURED_SETS = ("crows-pairs", "stereoset", "winobias", "bbq")
"""Built-in sets with a measure of their own; an audit adds them by itself if they are not there."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may store more


class Figure(_Part):
    """A value with its 95 % interval; null where too little was measured, or too few items differ, for one."""

    value: float
    interval: Interval | None

    @field_validator("interval")
    @classmethod
    def _has_width(cls, interval: Interval | None) -> Interval | None:
        """Drop an interval without width, which earlier audits stored."""
        return interval if interval is None or interval[0] < interval[1] else None


class NamedFigure(Figure):
    """A figure beside the score, such as StereoSet's language modelling score."""

    name: str
    items: int = 0


class AttributeScore(Figure):
    """The score on the pairs of one attribute."""

    attribute: str
    pairs: int
    p: float | None = None
    q: Annotated[
        float | None, Field(description="Against one half, after Benjamini and Hochberg; null where too few pairs.")
    ] = None


class LeftOut(_Part):
    """Items that were not measured, and why."""

    reason: str
    items: int
    examples: list[str] = []


class Measure(Figure):
    """The model's own measure: a share of pairs between 0 and 1, of which one half shows no bias."""

    name: Annotated[str, Field(examples=["crows-pairs"])]
    neutral: Annotated[
        float | None, Field(description="The share that shows no bias; null for an accuracy, which says nothing of it.")
    ] = 0.5
    sentence: Annotated[str, Field(description="Continues “The model … in 61 % of pairs”.")]
    method: str = ""
    pairs: int
    attributes: list[AttributeScore] = []
    also: list[NamedFigure] = []
    left_out: list[LeftOut] = []


class Contrast(_Part):
    """The two sides that features are compared between; effects above 0 are of the first."""

    first: str
    second: str


class ShadedToken(_Part):
    """A token of an example, with the feature's activation on it."""

    text: str
    activation: float


class ExamplePair(_Part):
    """One pair on which a feature differs, token by token: the first and the second side."""

    pair: str
    stereotype: list[ShadedToken]
    other: list[ShadedToken]


class Difference(_Part):
    """A feature whose activation differs between the sides of pairs; its effect is of pairs it was not chosen on."""

    feature: int
    effect: Annotated[Figure, Field(description="Mean difference in its standard deviations; above 0: first side.")]
    chosen_effect: float | None = None
    pairs: Annotated[int, Field(description="Pairs that it was chosen on and whose sides differ in it.")]
    p: float
    q: Annotated[float, Field(description="After Benjamini and Hochberg, over all features that were tested.")]
    token: Annotated[str | None, Field(description="The token, if hardly any other tells the sides apart.")] = None
    example: ExamplePair | None = None


class Enriched(_Part):
    """A feature that is more active in documents of one topic of the index' corpus."""

    feature: int
    attribute: str
    lift: Figure
    q: float | None = None


TreatmentKind = Literal["none", "features", "random", "diffmean", "tokens", "balanced"]


class Treatment(_Part):
    """The model with one change: its score, the change of it, and the cost. The first is the model as it is."""

    kind: TreatmentKind
    name: str
    features: list[int] = []
    seed: int | None = None
    score: Figure
    change: Annotated[Figure | None, Field(description="Of the score, pair by pair.")] = None
    versus_features: Annotated[
        Figure | None, Field(description="The features' change minus this control's, pair by pair.")
    ] = None
    also: list[NamedFigure] = []
    also_change: list[NamedFigure] = []
    loss: Annotated[Figure | None, Field(description="Rise of the loss on unrelated text, nats per token.")] = None
    kl: Annotated[Figure | None, Field(description="On the same text, nats per token.")] = None
    facts: Annotated[Figure | None, Field(description="Share of facts that hold.")] = None
    facts_change: Annotated[Figure | None, Field(description="Of that share, fact by fact.")] = None
    sentences: Annotated[
        Figure | None, Field(description="Rise of the loss on the audit's own sentences, nats per token.")
    ] = None

    @property
    def is_control(self) -> bool:
        """True for a change that the features' change is compared with."""
        return self.kind not in ("none", "features")


class ClassifierTreatment(_Part):
    """A classifier's accuracy on balanced texts after one treatment."""

    kind: TreatmentKind
    name: str
    retrained: bool = False
    profession: Figure
    group: Annotated[
        Figure, Field(description="Share given the label that went with their group in training; one half: no use.")
    ]
    worst_group: Figure
    features: list[int] = []


class Classifier(_Part):
    """A classifier on activations, trained on texts in which label and group go together."""

    note: str
    labels: list[str] = []
    groups: list[str] = []
    train_texts: int
    test_texts: int
    features: list[int] = []
    treatments: list[ClassifierTreatment]


class AuditedSet(_Part):
    """The text set, as it was."""

    name: str
    source: str = ""
    licence: str = ""
    offensive: bool = True
    hash: str = ""


class AuditResult(_Part):
    """Everything that an audit's page shows: what `sae_core.auditing.Audit` holds, and where it comes from."""

    set: AuditedSet
    model: str
    measure: Measure
    contrast: Contrast | None = None
    chosen_on: Annotated[int, Field(description="Pairs on which features were chosen.")] = 0
    tested_on: Annotated[int, Field(description="Other pairs, on which treatments were measured.")] = 0
    tested_features: Annotated[int, Field(description="Features that were compared between the sides.")] = 0
    sae_features: Annotated[int, Field(description="Features of the SAE; 0 in audits that did not note it.")] = 0
    features: list[Difference] = []
    enriched: list[Enriched] = []
    enriched_note: str = ""
    treatments: list[Treatment] = []
    cost_tokens: int = 0
    facts: int = 0
    facts_note: str = ""
    facts_about: Annotated[list[str], Field(description="Attributes that the facts are about.")] = []
    facts_example: str = ""
    classifier: Classifier | None = None
    limits: list[str] = []
    settings: dict[str, Any] = {}
