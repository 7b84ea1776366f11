"""What was found of feature absorption, as it is stored, and what it allows to say."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from app.services.probing import Figure

MEASURE = 2
"""The way it is measured; raise it when the same SAE would get other values."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spelling(_Part):
    """Share of words whose first letter the model tells, with its interval."""

    accuracy: float
    low: float
    high: float
    words: int
    spells: bool


class Absorbed(_Part):
    """Absorption of one dictionary; see `sae_core.probing.absorption.Absorption`."""

    fraction: Figure
    f1: float
    features: float
    letters: int
    words: int
    told: float


class FoundAbsorption(_Part):
    """What `SaeDetail.metrics["absorption"]` has."""

    measure: int = 1
    threshold: float
    spelling: Spelling | None
    reason: str | None
    sae: Absorbed | None
    random: Absorbed | None


def read_absorption(metrics: Mapping[str, Any]) -> FoundAbsorption | None:
    """Return what was found; None where nobody asked."""
    found = metrics.get("absorption")
    return None if found is None else FoundAbsorption.model_validate(found)


def absorption_verdict(found: FoundAbsorption | None) -> list[str]:
    """Return what can be said: of absorption, or of why it was not measured."""
    if found is None:
        return []
    if found.spelling is None:
        return [f"Feature absorption was not measured. {found.reason}"]
    spelling = found.spelling
    if not spelling.spells:
        return [
            f"Feature absorption was not measured, because the model cannot spell: asked for the first letter of "
            f"{spelling.words} words, it tells {_percent(spelling.accuracy)} ({_percent(spelling.low)} to "
            f"{_percent(spelling.high)}), and {_percent(found.threshold)} are needed."
        ]
    if found.sae is None:
        return ["Feature absorption was not measured: no three letters have enough words."]
    if found.measure != MEASURE:
        return [
            "Feature absorption was measured in another way than now, and the values do not compare: measure it again "
            "with seesae evaluate --absorption."
        ]
    own, control = found.sae, found.random
    figure = own.fraction
    said = (
        f"Feature absorption: on {own.words} words of {own.letters} letters, features of other meanings carry "
        f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f}) of the first letter"
    )
    if control is not None:
        said += f", in a random dictionary {control.fraction.value:.2f}"
    said += f". The features of a letter tell it with an F1 of {own.f1:.2f}"
    if control is not None:
        said += f", those of a random dictionary with {control.f1:.2f}"
    return [f"{said}; where they do not tell it, there is nothing to absorb."]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u202f%"
