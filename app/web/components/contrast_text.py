"""What a comparison of texts says in words, and its bars."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from app.queries.text_comparisons import (
    ONE_PLACE,
    SIGNIFICANT,
    ComparedFeature,
    TextComparisonView,
)
from app.web.components.formatting import count, percent, plural, significant

CLASSIFIERS = {
    "feature": "the feature that was ranked first",
    "features": "all features together",
    "words": "a bag of words",
    "activations": "the raw activations at the SAE’s hook",
    "length": "length alone",
}
"""What a classifier reads, by its name in `sae_core.contrast`."""

_MANY = {"features", "activations"}
_ALIKE = 0.01
"""Difference of AUROCs that is not worth a word."""
_WIDTH = 160
_HEIGHT = 20


def headline(view: TextComparisonView) -> str:
    """Return what was compared and what was found, in one or two sentences."""
    detail, a, b = view.detail, view.detail["sides"]["a"], view.detail["sides"]["b"]
    length = detail["length"]
    differ = "No feature differs" if not detail["differ"] else f"{plural(detail['differ'], 'feature')} differ"
    if detail["differ"] == 1:
        differ = "1 feature differs"
    return (
        f"{plural(a['texts'], 'text')} of {view.a.name} against {count(b['texts'])} of {view.b.name}. {differ} of the "
        f"{count(detail['tested'])} that are active on three texts or more (q < {SIGNIFICANT}){_confirmed(detail)}. "
        f"Length alone tells the sides apart with AUROC {auroc(length['auroc'])} "
        f"({auroc(length['interval'][0])} to {auroc(length['interval'][1])})."
    )


def _confirmed(detail: Mapping[str, Any]) -> str:
    if detail.get("same_side") is None or not detail["differ"]:
        return ""
    return f", {count(detail['same_side'])} of them in the same direction on held-out texts"


def verdict(view: TextComparisonView) -> str:
    """Return what tells held-out texts apart best; empty where none are held out."""
    found = {own["name"]: own for own in view.detail["classifiers"]}
    if not found:
        return ""
    best = view.detail["classifiers"][0]
    own = found["features"]
    if best["name"] != "features" and best["auroc"] - own["auroc"] < _ALIKE:
        return (
            f"Held-out texts are told apart as well by {CLASSIFIERS[best['name']]} as by all features together: AUROC "
            f"{auroc(best['auroc'])} and {auroc(own['auroc'])}."
        )
    tell = "tell" if best["name"] in _MANY else "tells"
    says = f"{upper_first(CLASSIFIERS[best['name']])} {tell} held-out texts apart best"
    if best["name"] in ("features", "feature"):
        return f"{says}: AUROC {auroc(best['auroc'])}."
    if best["interval"][0] <= own["auroc"]:
        return (
            f"{says} (AUROC {auroc(best['auroc'])}), though its interval holds that of all features together "
            f"({auroc(own['auroc'])}): use features to see what differs, not as the best classifier."
        )
    return (
        f"{says} (AUROC {auroc(best['auroc'])}), and better than all features together ({auroc(own['auroc'])}): use "
        "features to see what differs, not as a classifier."
    )


def upper_first(text: str) -> str:
    """Return a phrase as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def short_names(view: TextComparisonView) -> tuple[str, str]:
    """Return the sides' names as a column has them: labels alone, where both are of one set."""
    if view.a.set_name == view.b.set_name and view.a.label and view.b.label:
        return view.a.label, view.b.label
    return view.a.name, view.b.name


def auroc(value: float | None) -> str:
    """Return an AUROC with two digits, three near its ends."""
    if value is None:
        return "–"
    return f"{value:.3f}" if 0.99 < value < 0.9995 or 0.0005 < value < 0.01 else f"{value:.2f}"


def q_value(value: float) -> str:
    """Return a q value, as a bound where it is very small."""
    return "< 10⁻⁹" if value < 1e-9 else significant(value, 2)


def points(value: float) -> str:
    """Return percentage points with one digit and a true minus sign."""
    return f"{value:.1f}".replace("-", "−")


@dataclass(frozen=True, slots=True)
class Note:
    """Why a difference may not be what it looks like."""

    text: str
    why: str
    token: bytes | None = None


def notes_of(row: ComparedFeature, token: bytes) -> list[Note]:
    """Return what is to be known of a feature before its difference is believed; `token` is the one it prefers."""
    notes = []
    if row.is_one_token:
        why = f"{percent(row.token_share)} of its activation on these texts is on this token, in any spelling"
        notes.append(Note("only the token", why, token))
    if row.first_share >= ONE_PLACE:
        notes.append(Note("first token", f"peaks there on {percent(row.first_share)} of the texts that have it"))
    if row.last_share >= ONE_PLACE:
        notes.append(Note("last token", f"peaks there on {percent(row.last_share)} of the texts that have it"))
    if row.is_length:
        why = f"AUROC {auroc(row.matched_auroc)} among texts of about one length: less than half of the difference"
        notes.append(Note("mostly length", why))
    if row.test_auroc is not None and (row.test_auroc - 0.5) * (row.auroc - 0.5) <= 0:
        notes.append(
            Note("not on held-out texts", f"AUROC {auroc(row.test_auroc)} there, not on this side of one half")
        )
    return notes


def auroc_bar(value: float, low: float, high: float, test: float | None = None, *, width: int = _WIDTH) -> Markup:
    """Draw an AUROC from 0 to 1 with its interval, and that of held-out texts as a ring; b is left, a is right."""

    def x(share: float) -> str:
        return f"{4 + share * (width - 8):.1f}"

    middle = _HEIGHT / 2
    side = "a" if value >= 0.5 else "b"
    ring = "" if test is None else f'<circle class="auroc-test" cx="{x(test)}" cy="{middle}" r="3.5"/>'
    return Markup(  # noqa: S704 - numbers alone
        f'<svg class="auroc auroc-{side}" viewBox="0 0 {width} {_HEIGHT}" aria-hidden="true">'
        f'<path class="auroc-axis" d="M4 {middle}H{width - 4}M{x(0.5)} 3V{_HEIGHT - 3}"/>'
        f'<path class="auroc-interval" d="M{x(low)} {middle}H{x(high)}"/>'
        f'<circle class="auroc-value" cx="{x(value)}" cy="{middle}" r="3.5"/>{ring}</svg>'
    )


FILTERS: Mapping[str, Callable[..., Any]] = {
    "auroc": auroc,
    "q_value": q_value,
    "rate_points": points,
    "upper_first": upper_first,
}
