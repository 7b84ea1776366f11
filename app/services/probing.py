"""k-sparse probing: the text sets, the texts of one that are used, and what an SAE's figures allow to say."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import Unprocessable

if TYPE_CHECKING:  # `seesae --help` reads this module
    from app.queries.text_sets import TextItem

BUILTIN = "builtin"
"""Stands for all of `PROBE_SETS`."""


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """A built-in text set that SAEs are probed on."""

    subject: str
    """Common name of its classes, such as topics."""
    alike: str = ""
    """Field of the texts that were made alike; empty where each is a text of its own."""


PROBE_SETS: Mapping[str, ProbeSet] = {
    "wikipedia-topics": ProbeSet("topics"),
    "languages": ProbeSet("languages"),
    "imdb": ProbeSet("sentiment"),
    "toxicity": ProbeSet("toxicity"),
    "professions": ProbeSet("professions", alike="activity"),
}

MOST_TRAIN, MOST_TEST = 800, 400
"""Texts of a set that are used, in equal numbers per class as far as there are."""
LEAST_TEXTS = 8
"""Texts of a class to train on, and to test on; a class that has fewer is left out."""
MOST_CLASSES = 20


def named_sets(names: Sequence[str]) -> list[str]:
    """Return text sets by name, the built-in ones instead of the word for them."""
    return list(dict.fromkeys(each for name in names for each in (PROBE_SETS if name == BUILTIN else (name,))))


def draw_texts(name: str, items: "Sequence[TextItem]") -> "list[TextItem]":
    """Return the texts of a set that probes are trained and tested on: those of the part `test`, and all others.

    Raises:
        Unprocessable: fewer than two classes have enough texts, or more than `MOST_CLASSES` have.
    """
    parts: dict[str, tuple[list[TextItem], list[TextItem]]] = defaultdict(lambda: ([], []))
    for item in items:
        if item.label is not None and item.text.strip():
            parts[item.label][item.split == "test"].append(item)
    classes = {label: own for label, own in parts.items() if min(map(len, own)) >= LEAST_TEXTS}
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise Unprocessable(
            f"Probing needs two to {MOST_CLASSES} labels that at least {LEAST_TEXTS} texts of the part test have, and "
            f"as many others. {name} has {len(classes)}."
        )
    most = (MOST_TRAIN // len(classes), MOST_TEST // len(classes))
    return [
        item for own in classes.values() for part, size in zip(own, most, strict=True) for item in _draw(part, size)
    ]


def _draw(items: "Sequence[TextItem]", most: int) -> "list[TextItem]":
    return sorted(items, key=lambda item: sha256(f"probe {item.text}".encode(errors="surrogatepass")).digest())[:most]


# --- what was found, as it is stored


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may store more


class Figure(_Part):
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float


class Probed(_Part):
    """Probes of one kind: of the SAE's features, those of random dictionaries, single channels, or all activations."""

    by: Literal["features", "random", "channels", "activations"]
    k: int | None
    accuracy: Figure
    auroc: Figure


class Difference(Figure):
    """Accuracy of the SAE's features minus that of something else; intervals of all sets hold together."""

    against: Literal["random", "channels", "activations"]


class ProbedSet(_Part):
    """Probes of one text set, and their differences."""

    name: str
    classes: list[str]
    train: int
    test: int
    resampled: int
    probes: list[Probed]
    differences: list[Difference]

    @property
    def subject(self) -> str:
        """What the classes are: 'topics', or the set's own name."""
        return PROBE_SETS[self.name].subject if self.name in PROBE_SETS else self.name

    def difference(self, against: str) -> Difference:
        """Return the difference to one control."""
        return next(one for one in self.differences if one.against == against)


class Probing(_Part):
    """Probes of all sets, as `SaeDetail.metrics["probing"]` has it."""

    active: Annotated[int, Field(description="Active features per token of the random dictionaries.")]
    draws: int
    max_tokens: int
    ks: list[int]
    sets: list[ProbedSet]


def read_probing(metrics: Mapping[str, Any]) -> Probing | None:
    """Return what probing found; None for an SAE that was not probed."""
    found = metrics.get("probing")
    return None if found is None else Probing.model_validate(found)


# --- what it allows to say


@dataclass(frozen=True, slots=True)
class Comparison:
    """Text sets by whether an interval of the difference to one control is above 0, below it, or holds it."""

    better: Sequence[ProbedSet]
    worse: Sequence[ProbedSet]
    open: Sequence[ProbedSet]


def compare_with(found: Probing, against: str) -> Comparison:
    """Sort the sets by what the interval of the difference shows.

    An SAE is better only where all of the interval is above 0, in the two digits that are shown.
    """
    better = [one for one in found.sets if round(one.difference(against).low, 2) > 0]
    worse = [one for one in found.sets if round(one.difference(against).high, 2) < 0]
    return Comparison(better, worse, [one for one in found.sets if one not in better and one not in worse])


_CONTROLS = {
    "random": "a random dictionary",
    "channels": "as many single channels of the activations",
    "activations": "all of the activations",
}


def verdict(found: Probing) -> list[str]:
    """Return one sentence per control, by fixed rules from the intervals."""
    sentences = [_sentence(found, against, control) for against, control in _CONTROLS.items()]
    if len(compare_with(found, "activations").worse) == len(found.sets):
        sentences.append("The plain activations are better everywhere: use features to see, not to classify.")
    return sentences


def _sentence(found: Probing, against: str, control: str) -> str:
    shown = compare_with(found, against)
    said = [
        f"{words} {', '.join(f'{one.subject} ({span(one.difference(against))})' for one in sets)}"
        for words, sets in (
            ("better at", shown.better),
            ("worse at", shown.worse),
            ("not shown to be better or worse at", shown.open),
        )
        if sets
    ]
    return f"Compared with {control}, its features are {'; '.join(said)}."


def span(figure: Figure) -> str:
    """Return '+0.12, 0.08 to 0.16'."""
    return f"{_signed(figure.value, plus='+')}, {_signed(figure.low)} to {_signed(figure.high)}"


def _signed(value: float, plus: str = "") -> str:
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return ("−" if value < 0 else plus) + text
