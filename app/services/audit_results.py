"""What an audit found, as it is stored: every figure with its interval, every change beside its controls."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Interval = tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may store more


class Figure(_Part):
    """A value with its 95 % interval; None where too little was measured for one."""

    value: float
    interval: Interval | None


class NamedFigure(Figure):
    """A figure beside the score, such as StereoSet's language modelling score."""

    name: str


class AttributeScore(Figure):
    """The score on the pairs of one attribute; `q` is the p-value against one half, after Benjamini and Hochberg."""

    attribute: str
    pairs: int
    q: float | None = None


class Measure(Figure):
    """The model's own measure: a share of pairs between 0 and 1, of which one half shows no bias."""

    name: Annotated[str, Field(examples=["crows-pairs"])]
    sentence: Annotated[str, Field(description="Continues “The model … in 61 % of pairs”.")]
    pairs: int
    attributes: list[AttributeScore] = []
    also: list[NamedFigure] = []


class ShadedToken(_Part):
    """A token of an example, with the feature's activation on it."""

    text: str
    activation: float


class ExamplePair(_Part):
    """One pair on which a feature differs, token by token."""

    pair: str
    stereotype: list[ShadedToken]
    other: list[ShadedToken]


class Difference(_Part):
    """A feature whose activation differs between the sides of pairs."""

    feature: int
    effect: Annotated[Figure, Field(description="Mean difference in its standard deviations; above 0: stereotype.")]
    pairs: Annotated[int, Field(description="Pairs on which it is active on a side.")]
    p: float
    q: Annotated[float, Field(description="After Benjamini and Hochberg, over all features that were tested.")]
    token: Annotated[str | None, Field(description="The token, if the feature is active on hardly any other.")] = None
    example: ExamplePair | None = None


class Enriched(_Part):
    """A feature that is more active in documents of one attribute in the corpus of the index."""

    feature: int
    attribute: str
    lift: Figure
    q: float


TreatmentKind = Literal["none", "features", "random", "diffmean", "tokens"]


class Treatment(_Part):
    """The model with one change: its score, the change of it, and the cost. The first is the model as it is."""

    kind: TreatmentKind
    name: str
    features: list[int] = []
    score: Figure
    change: Annotated[Figure | None, Field(description="Of the score, pair by pair.")] = None
    versus_features: Annotated[
        Figure | None, Field(description="The features' change minus this control's, pair by pair.")
    ] = None
    loss: Annotated[Figure | None, Field(description="Rise of the loss on unrelated text, nats per token.")] = None
    kl: Annotated[Figure | None, Field(description="On the same text, nats per token.")] = None
    facts: Annotated[Figure | None, Field(description="Share of facts that hold.")] = None
    facts_change: Annotated[Figure | None, Field(description="Of that share, fact by fact.")] = None

    @property
    def is_control(self) -> bool:
        """True for a change that the features' change is compared with."""
        return self.kind not in ("none", "features")


class ClassifierTreatment(_Part):
    """A classifier's accuracy after one treatment."""

    kind: str
    name: str
    profession: Figure
    group: Figure
    worst_group: Figure


class Classifier(_Part):
    """A classifier on activations, trained on texts in which label and group go together."""

    note: str
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
    """Everything that an audit's page shows."""

    set: AuditedSet
    model: str
    measure: Measure
    chosen_on: Annotated[int, Field(description="Pairs on which features were chosen.")] = 0
    tested_on: Annotated[int, Field(description="Other pairs, on which treatments were measured.")] = 0
    tested_features: Annotated[int, Field(description="Features that were compared between the sides.")] = 0
    features: list[Difference] = []
    enriched: list[Enriched] = []
    treatments: list[Treatment] = []
    cost_tokens: int = 0
    facts: int = 0
    classifier: Classifier | None = None
    limits: list[str] = []
    settings: dict[str, Any] = {}
