"""Sentences about two SAEs and about two of their features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.queries.comparisons import ComparisonView, Counterpart
from app.queries.saes import SaeDetail
from app.web.components.formatting import count, percent, significant
from app.web.components.glossary import Measure, differing_parts
from sae_core.statistics.spec import PARTNER


def overview(a: SaeDetail, b: SaeDetail, comparison: ComparisonView) -> str:
    """Return how many features of two SAEs match, match none, and are split; both are named in full once."""
    a_short, b_short = differing_parts(a, b)
    own, others = comparison.this, comparison.other
    by = "activity" if comparison.tokens else "direction"
    matched = (
        f"{count(own[f'matched_by_{by}'])} of the {count(own['features'])} features of {a.slug} match one of {b.slug} "
        f"one to one, by {by}. {count(own['unmatched'])} match none in any way, and neither do "
        f"{count(others['unmatched'])} of the {count(others['features'])} of {b_short}."
    )
    if not comparison.tokens:
        return matched
    return (
        f"{matched} {b_short} splits {count(own['split'])} features of {a_short} into parts; the other way round it is "
        f"{count(others['split'])}."
    )


def verdict(counterpart: Counterpart, other: str, *, by_activity: bool) -> str:
    """Return whether a feature has a match in the SAE named `other`."""
    if counterpart.best is None:
        return f"No feature of {other} is similar."
    if counterpart.matched:
        return f"The two match: each is the other's best{'' if by_activity else ' in direction'}."
    return (
        f"Feature {counterpart.best.index} is the best there is in {other}, but not a match: it has a better one here, "
        "or the two are too unlike."
    )


def comes_back(counterpart: Counterpart, other: str) -> str:
    """Return whether a feature has a partner by direction in the SAE named `other`."""
    near = counterpart.near
    if near is None:
        return ""
    cosine = significant(near.cosine, 2)
    if counterpart.comes_back:
        return f"By direction it has a partner in {other}: feature {near.index}, at cosine {cosine}."
    return f"By direction it has no partner in {other}: the nearest is feature {near.index}, at cosine {cosine}."


@dataclass(frozen=True, slots=True)
class PartnersRow:
    """Shares of the features of two SAEs that have a partner in the other, by one measure; None: not measured."""

    name: str
    meaning: str
    shares: tuple[Measure | None, Measure | None]


def partners(comparison: ComparisonView) -> list[PartnersRow]:
    """Return how many features come back in the other SAE, beside chance; nothing of an older comparison."""
    sides = [side.get("partners") for side in (comparison.this, comparison.other)]
    if None in sides:
        return []
    chance = max(side["chance_cosine"] for side in sides if side)
    rows = {
        "direction": ("By direction", f"cosine of the decoder directions at least {PARTNER}"),
        "activity": ("By activity", f"correlation of the activations at least {PARTNER}; without dead features"),
        "chance": (
            "By chance, by direction",
            "in a random dictionary of the other's size, mean and covariance; its best cosines are "
            f"{significant(chance, 2)} on average",
        ),
    }
    return [
        PartnersRow(name, meaning, (_share(name, sides[0], key), _share(name, sides[1], key)))
        for key, (name, meaning) in rows.items()
        if sides[0] and sides[0][key]
    ]


def _share(name: str, side: Mapping[str, Any] | None, key: str) -> Measure | None:
    """Return one share with its interval and the numbers that it is made of."""
    if side is None or not side[key] or not side[key]["features"]:
        return None
    found, features = side[key]["found"], side[key]["features"]
    interval = " – ".join(percent(end) for end in side[key]["interval"])
    return Measure(name, percent(found / features), f"{count(found)} of {count(features)}", interval)
