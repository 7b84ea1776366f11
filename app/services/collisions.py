"""Labels that several features share: the same words, or nearly.

A label that fits many features tells none of them apart: in one study 82 % of labelled features shared theirs.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

NEAR = 90
"""Similarity of near labels, 0 to 100: twice the letters that two texts share in order, over all their letters."""
MAX_COMPARED = 10_000
"""Different texts that are compared with each other, which takes under a second; beyond, only equal ones are found."""
_AT_ONCE = 512
_NOT_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Collision:
    """Features that share a label."""

    explanations: tuple[str, ...]
    """As people wrote them, most frequent first."""
    features: tuple[int, ...]
    exact: bool
    """The same words, apart from case and punctuation."""


@dataclass(frozen=True, slots=True)
class Collisions:
    """Which labelled features share their label with another."""

    labelled: int
    """Features with a label."""
    sharing: int
    """Features of them that share it."""
    groups: tuple[Collision, ...]
    """Largest first. Features with several labels may be in several."""
    near_compared: bool
    """False where there are more than `MAX_COMPARED` texts."""


def find_collisions(labels: Iterable[tuple[int, str]]) -> Collisions:
    """Return which features share a label, from (feature, explanation)."""
    features: dict[str, set[int]] = defaultdict(set)
    written: dict[str, Counter[str]] = defaultdict(Counter)
    for feature, explanation in labels:
        words = normalise(explanation)
        features[words].add(feature)
        written[words][explanation] += 1
    compared = len(features) <= MAX_COMPARED
    groups = []
    for texts in _near_groups(list(features)) if compared else ([text] for text in features):
        sharing = sorted(set().union(*(features[text] for text in texts)))
        if len(sharing) > 1:
            wordings = sum((written[text] for text in texts), Counter[str]())
            groups.append(
                Collision(tuple(text for text, _ in wordings.most_common()), tuple(sharing), exact=len(texts) == 1)
            )
    return Collisions(
        labelled=len(set().union(*features.values())),
        sharing=len({feature for group in groups for feature in group.features}),
        groups=tuple(sorted(groups, key=lambda group: (-len(group.features), group.features))),
        near_compared=compared,
    )


def normalise(explanation: str) -> str:
    """Return the words of an explanation in lower case, or what it is made of where it has none."""
    folded = unicodedata.normalize("NFKC", explanation).casefold()
    return " ".join(_NOT_WORDS.sub(" ", folded).split()) or folded.strip()


def _near_groups(texts: Sequence[str]) -> list[list[str]]:
    """Return the texts in groups, in which each is near to another; the order of words does not count."""
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for one, other in _near_pairs([" ".join(sorted(text.split())) for text in texts]):
        parent[root(other)] = root(one)
    groups: dict[int, list[str]] = defaultdict(list)
    for place, text in enumerate(texts):
        groups[root(place)].append(text)
    return list(groups.values())


def _near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    import numpy as np
    from rapidfuzz import fuzz, process

    for start in range(0, len(texts), _AT_ONCE):
        similarity = process.cdist(
            texts[start : start + _AT_ONCE], texts[start:], scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.uint8
        )
        for one, other in np.argwhere(similarity).tolist():
            if one < other:
                yield start + one, start + other
