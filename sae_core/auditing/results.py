"""What an audit finds: every figure with its interval, every change beside its controls, and the raw values.

`to_json` of an `Audit` is what the site and the command line store. Intervals are of 95 %: of a share Wilson's, of
anything else the percentiles of a bootstrap over pairs (texts, facts). None stands where there is too little for one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Interval = tuple[float, float]

MEASURES = ("crows-pairs", "stereoset", "winobias", "bbq", "pairs", "groups")
MeasureName = Literal["crows-pairs", "stereoset", "winobias", "bbq", "pairs", "groups"]
TreatmentKind = Literal["none", "features", "random", "diffmean", "tokens", "balanced"]
"""`none`: the model as it is. `tokens`: the words in which the sides differ are deleted. `balanced` (of a classifier
alone): the oracle, trained on texts in which label and group are independent."""


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class NamedFigure(Figure):
    """A figure beside the score, such as StereoSet's language modelling score."""

    name: str
    items: int
    """Items that it is about."""


@dataclass(frozen=True)
class AttributeScore(Figure):
    """The score on the items of one attribute."""

    attribute: str
    pairs: int
    p: float | None
    """Two-sided binomial test against one half; None where there are fewer than `MIN_RANKED` pairs."""
    q: float | None
    """After Benjamini and Hochberg over the attributes that were tested. An attribute without q is not ranked."""


@dataclass(frozen=True)
class LeftOut:
    """Items that were not measured, and why."""

    reason: str
    items: int
    examples: Sequence[str]
    """Keys of the first few."""


@dataclass(frozen=True)
class Measure(Figure):
    """The model's own measure: the share of items that agree with the stereotype, of which one half shows no bias."""

    name: MeasureName
    sentence: str
    """Continues "The model … in 61 % of pairs"."""
    method: str
    """How the score and its interval are made, in one sentence."""
    pairs: int
    neutral: float | None = 0.5
    """The score of a model without bias; None where the score says nothing of bias (BBQ without annotations)."""
    attributes: Sequence[AttributeScore] = ()
    also: Sequence[NamedFigure] = ()
    left_out: Sequence[LeftOut] = ()


@dataclass(frozen=True)
class ShadedToken:
    """A token of an example, with the feature's activation on it."""

    text: str
    activation: float


@dataclass(frozen=True)
class ExamplePair:
    """One pair on which a feature differs, token by token: the first and the second side of the contrast."""

    pair: str
    stereotype: Sequence[ShadedToken]
    other: Sequence[ShadedToken]


@dataclass(frozen=True)
class Contrast:
    """What the two sides are that features are compared between. Effects above 0 are of the first."""

    first: str
    second: str


@dataclass(frozen=True)
class Difference:
    """A feature whose activation differs between the sides of pairs. Chosen on one half, its effect is of the other."""

    feature: int
    effect: Figure
    """Mean difference in its standard deviations (Cohen's d of pairs), on the half that features were not chosen on."""
    chosen_effect: float
    """The same on the half that they were chosen on, which flatters them."""
    pairs: int
    """Pairs, of those that features were chosen on, whose sides differ in it."""
    p: float
    """Wilcoxon's signed-rank test, two-sided, on the half that features were chosen on."""
    q: float
    """After Benjamini and Hochberg over all features that were tested."""
    token: str | None = None
    """The token, if nine tenths of what distinguishes the sides is on this one."""
    example: ExamplePair | None = None


@dataclass(frozen=True)
class Enriched:
    """A feature that is more active in documents of one topic of the index' corpus than their size would suggest."""

    feature: int
    attribute: str
    lift: Figure
    q: float | None = None


@dataclass(frozen=True)
class Treatment:
    """The model with one change, on the half that features were not chosen on. The first is the model as it is."""

    kind: TreatmentKind
    name: str
    score: Figure
    features: Sequence[int] = ()
    seed: int | None = None
    """Of a random control."""
    change: Figure | None = None
    """Of the score, pair by pair."""
    versus_features: Figure | None = None
    """The features' change minus this control's, pair by pair."""
    also: Sequence[NamedFigure] = ()
    """The measure's other figures after the change."""
    also_change: Sequence[NamedFigure] = ()
    """Of those figures, pair by pair."""
    loss: Figure | None = None
    """Rise of the loss on unrelated text, nats per token."""
    kl: Figure | None = None
    """KL(model ‖ changed model) on the same text, nats per token."""
    facts: Figure | None = None
    """Share of facts that hold."""
    facts_change: Figure | None = None
    """Of that share, fact by fact."""
    sentences: Figure | None = None
    """Rise of the loss on the audit's own sentences, nats per token."""


@dataclass(frozen=True)
class ClassifierTreatment:
    """A classifier's accuracy on balanced test texts after one treatment."""

    kind: TreatmentKind
    name: str
    retrained: bool
    """True if the classifier was trained on the changed activations of the confounded texts, too."""
    profession: Figure
    """Share of texts whose label it says."""
    group: Figure
    """Share of texts on which it says the label that went with their group in training: one half shows no use of it."""
    worst_group: Figure
    """The lowest accuracy of a label in a group."""
    features: Sequence[int] = ()


@dataclass(frozen=True)
class Classifier:
    """A classifier on activations, trained on texts in which label and group go together."""

    note: str
    labels: tuple[str, str]
    groups: tuple[str, str]
    train_texts: int
    test_texts: int
    features: Sequence[int]
    treatments: Sequence[ClassifierTreatment]


@dataclass(frozen=True)
class Audit:
    """Everything that an audit found."""

    measure: Measure
    contrast: Contrast | None = None
    chosen_on: int = 0
    """Pairs on which features were chosen."""
    tested_on: int = 0
    """Other pairs, on which treatments were measured."""
    tested_features: int = 0
    """Features that were compared between the sides."""
    sae_features: int = 0
    """Features of the SAE."""
    features: Sequence[Difference] = ()
    enriched: Sequence[Enriched] = ()
    enriched_note: str = ""
    """What metadata the corpus has, and what it does not have."""
    treatments: Sequence[Treatment] = ()
    cost_tokens: int = 0
    """Tokens of unrelated text on which costs were measured."""
    facts: int = 0
    facts_note: str = ""
    """How the facts were made."""
    facts_about: Sequence[str] = ()
    """Attributes that they are about."""
    facts_example: str = ""
    """One of them, as a sentence's start."""
    classifier: Classifier | None = None
    limits: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    raw: Sequence[Mapping[str, Any]] = ()
    """The values from which every figure can be computed again, one mapping per item and treatment."""

    def to_json(self) -> dict[str, Any]:
        """Return all but the raw values as what JSON can hold."""
        found = asdict(self)
        del found["raw"]
        return found
