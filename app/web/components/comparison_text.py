"""Sentences about two SAEs and about two of their features."""

from app.queries.comparisons import ComparisonView, Counterpart
from app.queries.saes import SaeDetail
from app.web.components.formatting import count


def overview(a: SaeDetail, b: SaeDetail, comparison: ComparisonView) -> str:
    """Return how many features of two SAEs match, match none, and are split."""
    own, others = comparison.this, comparison.other
    by = "activity" if comparison.tokens else "direction"
    matched = (
        f"{count(own[f'matched_by_{by}'])} of the {count(own['features'])} features of {a.slug} match one of {b.slug} "
        f"one to one, by {by}. {count(own['unmatched'])} match none in any way, and neither do "
        f"{count(others['unmatched'])} of the {count(others['features'])} of {b.slug}."
    )
    if not comparison.tokens:
        return matched
    return (
        f"{matched} {b.slug} splits {count(own['split'])} features of {a.slug} into parts; the other way round it is "
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
