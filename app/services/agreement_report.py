"""What is said about the agreement of people, without the arithmetic: pages read this and need no numpy."""

from dataclasses import dataclass

SCALE = 5
"""Interpretability goes from 1 to 5."""


@dataclass(frozen=True, slots=True)
class Rating:
    """What one person's submitted label says of a feature, apart from its words."""

    feature: int
    person: int
    categories: tuple[str, ...]
    interpretability: int | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % bootstrap interval over features; None where there is not enough to say, for a `reason`."""

    units: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of all people about one question. `features` have two answers or more."""

    features: int
    answers: int
    alpha: Estimate
    ac1: Estimate | None
    raw: Estimate


@dataclass(frozen=True, slots=True)
class CategoryAgreement:
    """Agreement about whether a feature has one category, and with what the category is confused."""

    category: str
    chosen: int
    """Labels with it."""
    agreement: Agreement
    both: int
    """Pairs of people who both chose it for a feature."""
    one: int
    """Pairs of whom one chose it."""
    against: tuple[tuple[str | None, int], ...]
    """What the other chose instead, None for no category at all, in how many pairs; most often first."""


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Cohen's kappa of two people."""

    people: tuple[int, int]
    features: int
    """Features that both labelled."""
    categories: Estimate | None
    interpretability: Estimate


@dataclass(frozen=True, slots=True)
class PersonAgreement:
    """One person's agreement with all others together."""

    person: int
    features: int
    """Features that somebody else labelled too."""
    kappa: Estimate
    extra_distance: Estimate
    """How much farther from the others than those are from each other, 0 to 1."""

    @property
    def differs(self) -> bool:
        """Return True if the person differs from the others more than those do from each other, beyond chance."""
        return self.extra_distance.low is not None and self.extra_distance.low > 0


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """Agreement in a label set, over the features that two people or more labelled."""

    features: int
    labels: int
    categories: Agreement | None
    """None where nobody chose any category."""
    interpretability: Agreement
    per_category: tuple[CategoryAgreement, ...]
    pairs: tuple[PairAgreement, ...]
    pairs_left_out: int
    people: tuple[PersonAgreement, ...]
