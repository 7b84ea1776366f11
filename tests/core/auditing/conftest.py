"""Small sets to audit, whose sentences resemble no data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from sae_core.saes import SAE
from tests.core.interventions.conftest import random_sae

PLACES = ("garden", "market", "kitchen", "harbour", "village", "church", "library", "station", "castle", "forest")


@dataclass(frozen=True)
class Text:
    """A text of a set, as `app.queries.text_sets.TextItem` has it."""

    text: str
    label: str | None = None
    group: str | None = None
    pair: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def pair_texts(pairs: int = 60, labels: Sequence[str] = ("stereotype", "anti-stereotype")) -> list[Text]:
    """Return pairs of sentences that differ in one word, about three attributes, of which one has two pairs."""
    found = []
    for number in range(pairs):
        group = "rare" if number < 2 else ("colour", "size")[number % 2]
        sides = ("red", "blue") if number % 2 else ("tall", "small")
        sides = sides[::-1] if number % 6 == 0 else sides
        for label, word in zip(labels, sides, strict=True):
            text = f"The {word} man number {number} went to the {PLACES[number % 10]} in the morning."
            found.append(Text(text, label, group, str(number)))
    return found


@pytest.fixture(scope="session")
def sae() -> SAE:
    """A random SAE of the tiny model."""
    return random_sae("topk").for_inference()
