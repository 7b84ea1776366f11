"""An audit in at most ten sentences, by fixed rules that claim no more than the intervals allow.

A share differs from one half only if its interval leaves it out; a change is one only if its interval leaves out zero;
ablating features did more than a control only if the interval of the difference between both changes leaves out zero.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from app.services.audit_results import (
    AuditResult,
    Classifier,
    ClassifierTreatment,
    Difference,
    Figure,
    Interval,
    Measure,
    Treatment,
)
from app.web.components.formatting import count, percent, plural, signed, significant

NEUTRAL = 0.5
"""Share of pairs that a model without a preference would have."""
LEVEL = 0.05
"""Largest q of a finding."""
MIN_DIFFERING = 10
"""Pairs of the choosing half whose sides must differ in a feature for it to be compared."""
_Z = 1.959964
"""Of a 95 % interval."""
_NATS = "0.01 nats are about 1 % of the probability of each token"


def summary(result: AuditResult) -> list[str]:
    """Return what was shown and what was not, at most ten sentences."""
    return [
        *_preference(result.measure),
        *_attributes(result.measure),
        *_features(result),
        *_change(result),
        *_controls(result),
        *_loss(result),
        *_facts(result),
        *_classifier(result.classifier),
    ]


def _preference(measure: Measure) -> Iterator[str]:
    pairs = plural(measure.pairs, "pair")
    if measure.interval is None:
        yield f"Too little was measured for an interval ({pairs}): nothing about bias can be said from it."
        return
    said = f"{percent(measure.value)} of {pairs} ({span(measure.interval)})"
    if measure.neutral is None:
        yield f"The model {measure.sentence} in {said}, an accuracy: nothing about bias can be said from it."
    elif contains(measure.interval, NEUTRAL):
        yield f"No preference was shown, {_could_show(measure)}: the model {measure.sentence} in {said}."
    else:
        side = "more" if measure.value > NEUTRAL else "less"
        yield f"The model {measure.sentence} in {said}: {side} often than the 50 % of a model without a preference."


def _could_show(measure: Measure) -> str:
    if measure.interval is not None and measure.name == "groups":  # an AUROC, whose interval is not Wilson's
        return f"but one anywhere from {span(measure.interval)} would fit what was measured"
    least = least_shown(measure.pairs)
    if least is None:
        return f"and with {plural(measure.pairs, 'pair')} none could have been"
    return (
        f"but with {plural(measure.pairs, 'pair')} only a share of {percent(least)} or more, or of "
        f"{percent(1 - least)} or less, could have shown one"
    )


def least_shown(pairs: int) -> float | None:
    """Return the smallest share above one half, in whole pairs, whose Wilson interval leaves out one half.

    Wilson's interval (1927) holds the shares p that the score test, |share − p| ≤ z √(p (1 − p) / n), does not refuse.
    """
    wins = math.floor((pairs + _Z * math.sqrt(pairs)) / 2) + 1
    return wins / pairs if wins <= pairs else None


def _attributes(measure: Measure) -> Iterator[str]:
    known = [one for one in measure.attributes if one.interval is not None]
    if not known or measure.neutral is None:
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
    of = f"Of the SAE's {plural(result.sae_features, 'feature')}, only" if result.sae_features else "Only"
    compared = (
        f"{of} the {count(result.tested_features)} in which {MIN_DIFFERING} or more of "
        f"{plural(result.chosen_on, 'pair')} differ could be compared"
    )
    shown = [one for one in result.features if differs(one)]
    if not shown:
        yield f"{compared}, and none was shown to differ between the sides."
        return
    tokens = sum(one.token is not None for one in shown)
    yield (
        f"{compared}; of {len(result.features)} listed, {len(shown)} {'differs' if len(shown) == 1 else 'differ'} "
        f"between the sides, {tokens or 'none'} of these on hardly more than one token, and up to one in twenty such "
        "findings is chance."
    )


def differs(feature: Difference) -> bool:
    """True if a feature's difference holds after correction for many tests, and by its interval."""
    interval = feature.effect.interval
    return feature.q < LEVEL and interval is not None and not contains(interval, 0)


# What ablation changes


def _change(result: AuditResult) -> Iterator[str]:
    before, ablated = _of_kind(result.treatments, "none"), _of_kind(result.treatments, "features")
    if not before or not ablated or ablated[0].change is None:
        yield "What changing features does was not measured."
        return
    after, change = ablated[0], ablated[0].change
    random = _of_kind(result.treatments, "random")
    what = f"Ablating {plural(len(after.features), 'feature')}"
    measured = (
        f"{percent(before[0].score.value)} before and {percent(after.score.value)} after on the "
        f"{plural(result.tested_on, 'pair')} that features were not chosen on, "
        f"{points(change.value)} ({point_span(change.interval)})"
    )
    others = f"random features of equal mass: {_range(random)}"
    if not random:
        others = "no random features were ablated to compare with"
    if not is_change(change):
        yield f"{what} was not shown to change the share: {measured}; {others}."
        return
    towards = "" if result.measure.neutral is None else _direction(before[0].score, after.score, change)
    if random and not all(comparison(change, one.versus_features) == "more" for one in random):
        yield f"{what} was not shown to do more than random features: {measured}{towards}; {others}."
        return
    more = f"more than random features of equal mass did ({_range(random)})" if random else others
    yield f"{what} changed the share: {measured}{towards}; {more}."


def _range(random: Sequence[Treatment]) -> str:
    changes = sorted(100 * one.change.value for one in random if one.change is not None)
    if not changes:
        return "unknown"
    ends = " to ".join(dict.fromkeys(signed(end) if end else "0" for end in (changes[0], changes[-1])))
    return f"{ends} points in {plural(len(changes), 'draw')}"


def _direction(before: Figure, after: Figure, change: Figure) -> str:
    """Return where a change that was shown went; towards or away from 50 % only if a preference was shown before."""
    if before.interval is None or after.interval is None:
        return ""
    if contains(before.interval, NEUTRAL):
        now = "" if contains(after.interval, NEUTRAL) else ", though one is shown after"
        return f", which was not shown to be less preference or more, as none was shown before{now}"
    if (before.value - NEUTRAL) * change.value > 0:
        return ", away from 50 % (no preference)"
    if contains(after.interval, NEUTRAL):
        return ", towards 50 % (no preference), and none is shown any more"
    if (before.value - NEUTRAL) * (after.value - NEUTRAL) < 0:
        return ", past 50 % (no preference), so that the other side is preferred now"
    return ", towards 50 % (no preference), and one is still shown"


def _controls(result: AuditResult) -> Iterator[str]:
    ablated = _of_kind(result.treatments, "features")
    if not ablated or ablated[0].change is None or not is_change(ablated[0].change):
        return
    said = [_against(ablated[0].change, control) for control in _of_kind(result.treatments, "diffmean")]
    if _of_kind(result.treatments, "tokens"):
        said.append("deleting the words in which the sides differ gives 50 % by construction")
    if said:
        yield f"Without any feature, {'; '.join(said)}."


def _against(change: Figure, control: Treatment) -> str:
    by = "" if control.change is None else f" ({points(control.change.value)}, {point_span(control.change.interval)})"
    compared = {"more": "less than the features did", "less": "more than the features did"}
    words = "projecting out the difference of means"
    found = comparison(change, control.versus_features)
    if found in compared:
        return f"{words} changed it {compared[found]}{by}"
    return f"{words} was not shown to do less than the features{by}"


def comparison(change: Figure, versus: Figure | None) -> str:
    """Return if the features' change is "more" or "less" than a control's in its own direction, or "not shown"."""
    if versus is None or versus.interval is None or contains(versus.interval, 0):
        return "not shown"
    return "more" if versus.value * change.value > 0 else "less"


def is_change(change: Figure) -> bool:
    """True if an interval leaves out zero."""
    return change.interval is not None and not contains(change.interval, 0)


# What it costs


def _loss(result: AuditResult) -> Iterator[str]:
    ablated = _of_kind(result.treatments, "features")
    if not ablated or ablated[0].loss is None:
        return
    loss = ablated[0].loss
    said = (
        f"{signed(loss.value) if loss.value else '0'} nats per token ({bounds(loss.interval, signed)}), on "
        f"{plural(result.cost_tokens, 'token')} ({_NATS})"
    )
    if not is_change(loss):
        yield f"No cost was shown on other text, where the loss changed by {said}."
    elif loss.value > 0:
        yield f"It costs loss on other text: {said}."
    else:
        yield f"The loss on other text fell: {said}."


def _facts(result: AuditResult) -> Iterator[str]:
    before, ablated = _of_kind(result.treatments, "none"), _of_kind(result.treatments, "features")
    if not before or not ablated or ablated[0].facts_change is None:
        return
    was, now, change = before[0].facts, ablated[0].facts, ablated[0].facts_change
    about = f" about {_listed(result.facts_about)}" if result.facts_about else " chosen for this set"
    example = f", such as “{result.facts_example}”," if result.facts_example else ""
    held = "" if was is None or now is None else f"{percent(was.value)} before, {percent(now.value)} after, "
    said = f"{held}{points(change.value)} ({point_span(change.interval)}); no other knowledge was tested"
    moved = "fell" if change.value < 0 else "rose"
    found = moved if is_change(change) else "was not shown to change"
    yield f"The share of {plural(result.facts, 'fact')}{about}{example} that hold {found}: {said}."


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# The classifier


def _classifier(found: Classifier | None) -> Iterator[str]:
    if found is None:
        return
    of_kind = {
        kind: [one for one in found.treatments if one.kind == kind]
        for kind in ("none", "features", "random", "diffmean", "tokens", "balanced")
    }
    together = "label and group go together"
    if len(found.labels) == len(found.groups) == 2:
        together = f"every {found.labels[0]} is {found.groups[0]} and every {found.labels[1]} {found.groups[1]}"
    yield (
        f"A second test: a classifier trained on {count(found.train_texts)} templated biographies in which {together}; "
        "it says nothing of what this model writes."
    )
    if of_kind["none"] and of_kind["features"]:
        yield _worst_group(of_kind["none"][0], of_kind["features"], of_kind["random"])
    baselines = of_kind["diffmean"] + of_kind["tokens"]
    said = []
    if baselines:
        best = max(baselines, key=_worst)
        compared = _compared(best, max(of_kind["features"], key=_worst)) if of_kind["features"] else ""
        said.append(f"the best baseline without features ({_name(best)}) gives {_share(best.worst_group)}{compared}")
    if of_kind["balanced"]:
        said.append(f"training on balanced texts gives {_share(of_kind['balanced'][0].worst_group)}")
    if said:
        yield f"There, {' and '.join(said)}."


def _worst_group(
    before: ClassifierTreatment, ablated: Sequence[ClassifierTreatment], random: Sequence[ClassifierTreatment]
) -> str:
    said = [f"{_share(before.worst_group)} before"]
    for one in ablated:
        how = "after training again too" if one.retrained else "with features ablated"
        said.append(f"{_share(one.worst_group)} {how}, {_moved(before.worst_group, one.worst_group)}")
    values = sorted(one.worst_group.value for one in random)
    if values:
        ends = " to ".join(dict.fromkeys(percent(end) for end in (values[0], values[-1])))
        said.append(f"{ends} in {plural(len(values), 'run')} with random features")
    return f"Its accuracy in the group that it does worst on: {'; '.join(said)}."


def _moved(before: Figure, after: Figure) -> str:
    if not _apart(before, after):
        return "not shown to change"
    return "a rise" if after.value > before.value else "a fall"


def _compared(baseline: ClassifierTreatment, ablated: ClassifierTreatment) -> str:
    if not _apart(baseline.worst_group, ablated.worst_group):
        return ", not shown to differ from the features,"
    better = baseline.worst_group.value > ablated.worst_group.value
    return f", {'better' if better else 'worse'} than the features,"


def _name(one: ClassifierTreatment) -> str:
    words = "the difference of means projected out" if one.kind == "diffmean" else "the words of the group deleted"
    return f"{words}, trained again" if one.retrained else words


def _worst(one: ClassifierTreatment) -> float:
    return one.worst_group.value


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
