"""Agreement as a person reads it; `FILTERS` are template filters."""

from app.services.agreement_report import Estimate, PersonAgreement

TENTATIVE = 0.667
RELIABLE = 0.8
"""Krippendorff's advice for alpha: rely on data from 0.8, draw tentative conclusions from 0.667."""
_LOWEST = -0.25
"""Left end of the drawing of an interval; what is lower is drawn there."""


def decimals(value: float) -> str:
    """Return a measure of agreement with two decimals: '0.74', '−0.08'."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "\u2212")


def interval(found: Estimate) -> str:
    """Return an interval in words: '0.62 to 0.83'; '' if there is none."""
    return "" if found.low is None or found.high is None else f"{decimals(found.low)} to {decimals(found.high)}"


def on_scale(value: float) -> float:
    """Return where a measure is on a drawing that is 100 wide."""
    return round(100 * (max(value, _LOWEST) - _LOWEST) / (1 - _LOWEST), 1)


def verdict(found: Estimate) -> str:
    """Return what Krippendorff advises for an alpha, by the lower end of its interval; '' if there is none."""
    if found.low is None:
        return ""
    if found.low >= RELIABLE:
        return "reliable: even the lower end is above 0.80"
    if found.low >= TENTATIVE:
        return "enough for tentative conclusions: the lower end is above 0.67"
    return "too low to rely on: the lower end is below 0.67. Go through what differs, and sharpen the guideline"


def second_look(found: PersonAgreement) -> str:
    """Return why it is worth going through features with a person; '' if they differ no more than others do."""
    if not found.differs:
        return ""
    return "reads features differently from the others, who are closer to each other: worth going through some together"


FILTERS = {
    "decimals": decimals,
    "interval": interval,
    "on_scale": on_scale,
    "verdict": verdict,
    "second_look": second_look,
}
