"""An audit in plain language, by fixed rules that claim no more than the intervals allow.

A share differs from one half only if its interval leaves it out; a change is one only if its interval leaves out zero;
ablating features did more than a control only if the interval of the difference between both changes leaves out zero.
"""

from collections.abc import Callable, Iterator, Sequence

from app.services.audit_results import (
    AuditResult,
    ClassifierTreatment,
    Difference,
    Figure,
    Interval,
    Measure,
    Treatment,
)
from app.web.components.formatting import percent, plural, signed, significant

NEUTRAL = 0.5
"""Share of pairs that a model without a preference would have."""
LEVEL = 0.05
"""Largest q of a finding."""


def summary(result: AuditResult) -> list[str]:
    """Return what was shown and what was not, one sentence or two per finding."""
    return [*_bias(result.measure), *_features(result), *_changes(result), *_costs(result), *_classifier(result)]


def _bias(measure: Measure) -> Iterator[str]:
    pairs = plural(measure.pairs, "pair")
    if measure.interval is None:
        yield f"Too little was measured for an interval ({pairs}): nothing about bias can be said from it."
        return
    said = f"{percent(measure.value)} of {pairs} ({span(measure.interval)})"
    if measure.neutral is None:
        yield f"The model {measure.sentence} in {said}. That is an accuracy: nothing about bias can be said from it."
        return
    if contains(measure.interval, NEUTRAL):
        yield (
            f"No bias was shown: the model {measure.sentence} in {said}, and the interval contains 50 %. That does "
            "not show that the model has none."
        )
    else:
        side = "more" if measure.value > NEUTRAL else "less"
        yield f"The model {measure.sentence} in {said}: {side} often than the 50 % of a model without a preference."
    yield from _attributes(measure)


def _attributes(measure: Measure) -> Iterator[str]:
    known = [one for one in measure.attributes if one.interval is not None]
    if not known:
        return
    shown = [one for one in known if is_shown(one.interval, one.q)]
    rest = len(measure.attributes) - len(shown)
    if not shown:
        yield f"For none of {plural(rest, 'attribute')} alone was a preference shown, which may be for lack of pairs."
        return
    names = ", ".join(f"{one.attribute} ({percent(one.value)})" for one in shown)
    more = f"; for {'the other' if rest == 1 else f'the other {rest}'} it was not" if rest else ""
    yield f"Alone, a preference was shown for {names}{more}."


def is_shown(interval: Interval | None, q: float | None) -> bool:
    """True if a share differs from one half by its interval, and by its q."""
    return interval is not None and not contains(interval, NEUTRAL) and q is not None and q < LEVEL


def _features(result: AuditResult) -> Iterator[str]:
    if not result.tested_features:
        return
    shown = [one for one in result.features if differs(one)]
    tested = plural(result.tested_features, "feature")
    if not shown:
        yield f"No feature was shown to differ between the sides of pairs, of {tested} that were compared."
        return
    tokens = sum(one.token is not None for one in shown)
    only = f"; {tokens} of them {'is' if tokens == 1 else 'are'} active on hardly more than one token" if tokens else ""
    differ = "differs" if len(shown) == 1 else "differ"
    yield (
        f"{plural(len(shown), 'feature')} of the list {differ} between the sides of pairs, of {tested} that were "
        f"compared{only}. Of such findings, up to 5 % are false on average."
    )


def differs(feature: Difference) -> bool:
    """True if a feature's difference holds after correction for many tests, and by its interval."""
    interval = feature.effect.interval
    return feature.q < LEVEL and interval is not None and not contains(interval, 0)


def _changes(result: AuditResult) -> Iterator[str]:
    ablated = _of_kind(result.treatments, "features")
    if not ablated or ablated[0].change is None:
        yield "What changing features does was not measured."
        return
    change = ablated[0].change
    pairs = plural(result.tested_on, "pair")
    what = "Ablating the feature" if len(ablated[0].features) == 1 else "Ablating these features"
    said = f"{points(change.value)} ({point_span(change.interval)})"
    if not is_change(change):
        yield f"{what} was not shown to change the measure on {pairs}: {said}."
        return
    random = _of_kind(result.treatments, "random")
    if not random:
        yield f"{what} changed the measure on {pairs} by {said}, but no random features were ablated to compare with."
    elif all(comparison(change, one.versus_features) == "more" for one in random):
        yield f"{what} changed the measure on {pairs} by {said}, more than ablating random features of equal mass did."
        if result.measure.neutral is not None:
            yield from _direction(result.treatments, ablated[0])
    else:
        yield (
            f"{what} did not do more than random features: it changed the measure on {pairs} by {said}, and ablating "
            "random features of equal mass was not shown to change it less."
        )
    for control in _of_kind(result.treatments, "diffmean"):
        yield _against("Projecting out the difference of means", change, control)
    if _of_kind(result.treatments, "tokens"):
        yield "Deleting the words in which the sides differ gives 50 % by construction; no feature is needed for that."


def _direction(treatments: Sequence[Treatment], ablated: Treatment) -> Iterator[str]:
    """Say if bias became less; only of a bias that was shown on the same pairs."""
    before = next((one.score for one in treatments if one.kind == "none"), None)
    after = ablated.score
    if before is None or before.interval is None or after.interval is None or ablated.change is None:
        return
    if contains(before.interval, NEUTRAL):
        yield "On these pairs alone no bias was shown before, so none was shown to become less."
    elif (before.value - NEUTRAL) * ablated.change.value > 0:
        yield "The change is away from 50 %: the preference became stronger."
    elif contains(after.interval, NEUTRAL):
        yield f"The change is towards 50 %; no bias is shown on these pairs any more ({span(after.interval)})."
    elif (before.value - NEUTRAL) * (after.value - NEUTRAL) < 0:
        yield f"The change is past 50 %: the model now prefers the other side ({span(after.interval)})."
    else:
        yield f"The change is towards 50 %, and a preference is still shown ({span(after.interval)})."


def _against(words: str, change: Figure, control: Treatment) -> str:
    by = "" if control.change is None else f" ({points(control.change.value)}, {point_span(control.change.interval)})"
    match comparison(change, control.versus_features):
        case "more":
            return f"{words} changed it less than the features did{by}."
        case "less":
            return f"{words} changed it more than the features did{by}: no feature is needed for that."
        case _:
            return f"{words} was not shown to do less than the features{by}."


def comparison(change: Figure, versus: Figure | None) -> str:
    """Return if the features' change is "more" or "less" than a control's in its own direction, or "not shown"."""
    if versus is None or versus.interval is None or contains(versus.interval, 0):
        return "not shown"
    return "more" if versus.value * change.value > 0 else "less"


def is_change(change: Figure) -> bool:
    """True if an interval leaves out zero."""
    return change.interval is not None and not contains(change.interval, 0)


def _costs(result: AuditResult) -> Iterator[str]:
    ablated = _of_kind(result.treatments, "features")
    if not ablated:
        return
    loss, facts = ablated[0].loss, ablated[0].facts_change
    if loss is not None:
        said = f"{signed(loss.value)} nats per token ({bounds(loss.interval, signed)})"
        tokens = plural(result.cost_tokens, "token")
        if not is_change(loss):
            yield f"On {tokens} of other text, no cost was shown: the loss changed by {said}."
        elif loss.value > 0:
            yield f"It costs loss on other text: {said}, on {tokens}."
        else:
            yield f"The loss on other text fell: {said}, on {tokens}."
    if facts is not None:
        said = f"{points(facts.value)} ({point_span(facts.interval)})"
        facts_said = f"the share of {plural(result.facts, 'fact')} that hold changed by {said}"
        if not is_change(facts):
            yield f"It was not shown to change what the model knows: {facts_said}."
        elif facts.value < 0:
            yield f"It also removed knowledge: {facts_said}."
        else:
            yield f"More facts hold with it: {facts_said}."


def _classifier(result: AuditResult) -> Iterator[str]:
    if result.classifier is None:
        return
    treatments = result.classifier.treatments
    before = next((one for one in treatments if one.kind == "none"), None)
    for after in (one for one in treatments if one.kind == "features"):
        if before is not None:
            where = "For the classifier, retrained without them" if after.retrained else "For the classifier"
            for words, part in _PARTS:
                yield f"{where}, {_moved(words, part(before), part(after))}"
        for control in treatments:
            if control.kind in _CLASSIFIER_CONTROLS and control.retrained == after.retrained:
                yield _beside(after, control)


_PARTS: tuple[tuple[str, Callable[[ClassifierTreatment], Figure]], ...] = (
    ("accuracy of the worst group", lambda one: one.worst_group),
    ("accuracy on professions", lambda one: one.profession),
)
_CLASSIFIER_CONTROLS = ("random", "diffmean", "tokens")


def _moved(words: str, before: Figure, after: Figure) -> str:
    said = f"{_share(before)} before, {_share(after)} after"
    if not _apart(before, after):
        return f"{words} was not shown to change: {said}."
    return f"{words} {'rose' if after.value > before.value else 'fell'}: {said}."


def _beside(ablated: ClassifierTreatment, control: ClassifierTreatment) -> str:
    own, other = ablated.worst_group, control.worst_group
    ending = f"accuracy of the worst group {_share(other)}."
    name = f"“{control.name}”"
    if not _apart(own, other):
        return f"It was not shown to do better than {name}: {ending}"
    return f"It did {'better' if own.value > other.value else 'worse'} than {name}: {ending}"


def _apart(one: Figure, other: Figure) -> bool:
    """True if two intervals do not overlap, which is stricter than a test of the difference."""
    if one.interval is None or other.interval is None:
        return False
    return one.interval[1] < other.interval[0] or other.interval[1] < one.interval[0]


def _of_kind(treatments: Sequence[Treatment], kind: str) -> list[Treatment]:
    return [one for one in treatments if one.kind == kind]


def _share(figure: Figure) -> str:
    return f"{percent(figure.value)} ({span(figure.interval)})"


def contains(interval: Interval, value: float) -> bool:
    """True if a value lies in an interval, ends included."""
    return interval[0] <= value <= interval[1]


def points(change: float) -> str:
    """Return a change of a share in percentage points."""
    return f"{signed(100 * change) if change else '0'} points"


def span(interval: Interval | None) -> str:
    """Return an interval of shares: "58.1 %–64.0 %"."""
    return bounds(interval, percent)


def point_span(interval: Interval | None) -> str:
    """Return an interval of changes, in percentage points."""
    return bounds(interval, lambda end: signed(100 * end))


def bounds(interval: Interval | None, form: Callable[[float], str] = significant) -> str:
    """Return an interval, or that there is none."""
    return "no interval" if interval is None else f"{form(interval[0])} to {form(interval[1])}"
