"""Measured effects in words."""

from app.queries.effects import EffectSummary, EffectView
from app.web.components.dose_response import dose_response
from app.web.components.formatting import plural, significant

NOTE = (
    "The feature is ablated where it is active on held-out text, and the change of the next-token distribution (KL) is "
    "compared with that of ablating other active features of equal mass on the same tokens."
)
NOT_HELD_OUT = "Some of the text may have been seen in training."
MOVED = (
    "Tokens whose probability it raises and lowers where it is active, through all later layers. The output tokens "
    "above are the direct part alone."
)


def sentence(effect: EffectSummary) -> str:
    """Return what was found, in one sentence."""
    tokens = plural(effect.tokens, "token")
    if not effect.tokens:
        return "It is not active on the held-out text, so its effect is not known."
    if effect.ratio is None or effect.interval is None:
        return f"It is active in too little held-out text to compare it with chance ({tokens})."
    low, high = (times(end) for end in effect.interval)
    ratio = times(effect.ratio)
    if effect.used:
        return f"Ablating it changes the model's predictions {ratio} × as much as chance, {low}–{high}; used."
    if effect.interval[1] < 1:
        return f"Ablating it changes the model's predictions less than chance, {ratio} × as much, {low}–{high}."
    return f"No effect beyond chance on {tokens}: {ratio} × as much as chance, {low}–{high}."


def times(ratio: float) -> str:
    """Return a ratio with the digits that its interval supports."""
    return f"{ratio:.1f}" if 0.95 <= ratio < 100 else significant(ratio, 2)


def short(effect: EffectSummary) -> str:
    """Return the ratio as a list shows it."""
    return "–" if effect.ratio is None else f"{times(effect.ratio)} ×"


def basis(effect: EffectView) -> str:
    """Return what the figures were measured on."""
    return (
        f"{plural(effect.contexts, 'place')}, {plural(effect.tokens, 'token')}; 95 % bootstrap interval over sequences"
    )


def points(change: float) -> str:
    """Return a change of a probability in percentage points."""
    return f"{'+' if change > 0 else '−' if change < 0 else ''}{significant(abs(100 * change), 2)} %"


FILTERS = {
    "effect_sentence": sentence,
    "effect_short": short,
    "effect_basis": basis,
    "dose_response": dose_response,
    "points": points,
}
