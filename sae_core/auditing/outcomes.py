"""What treatments change: the score on pairs that features were not chosen on, beside controls and costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from sae_core.auditing.config import NeutralText
from sae_core.auditing.costs import (
    change_texts,
    fact_figures,
    fact_items,
    facts_hold,
    score_changed,
    sentence_cost,
    text_costs,
)
from sae_core.auditing.intervals import figure
from sae_core.auditing.items import Item
from sae_core.auditing.measures import Replicates, Values, count_items, named_figures, score_figure
from sae_core.auditing.results import Figure, NamedFigure, Treatment
from sae_core.auditing.scoring import LogProbs
from sae_core.auditing.stages import Run, kept_scores, kept_text_changes
from sae_core.auditing.treatments import Change, can_delete_words
from sae_core.effects import Fact, TextChange

_UNTREATED = Change("none", "The model as it is")


@dataclass(frozen=True)
class _Costs:
    """What costs are measured on, and how the model does as it is."""

    texts: Sequence[TextChange]
    """Of unrelated text; variants are the changes in their order."""
    facts: Sequence[Item]
    held: Float64[np.ndarray, " fact"] | None


def measure_treatments(
    run: Run,
    items: Sequence[Item],
    before: LogProbs,
    changes: Sequence[Change],
    neutral: Sequence[NeutralText],
    facts: Sequence[Fact],
) -> tuple[list[Treatment], int]:
    """Return the model as it is, then each change of it, and the tokens of unrelated text.

    Args:
        run: the audit.
        items: that features were not chosen on.
        before: of the model as it is.
        changes: the features first, then controls.
        neutral: unrelated text.
        facts: to check.
    """
    texts = _change_texts(run, changes, neutral)
    asked = fact_items(facts)
    costs = _Costs(texts, asked, _held(run, _UNTREATED, asked, "facts"))
    values = run.instrument.values(items, before)
    found = [_untreated(run, values, costs)]
    features: Values | None = None
    for number, change in enumerate(changes):
        after = _score(run, items, change, number)
        changed = run.instrument.values(items, after)
        run.note_items(change.name, items, after, changed)
        features = changed if features is None else features
        one = _compare(run, change, values, changed, features)
        cost = sentence_cost(after, before, replicates=run.config.replicates, seed=run.config.seed)
        found.append(_with_costs(run, replace(one, sentences=cost), change, number, costs))
    if features is not None and all(can_delete_words(item) for item in items):
        found.append(_deleted(run, values, features))
    return found, sum(text.tokens for text in texts)


def _score(run: Run, items: Sequence[Item], change: Change, number: int) -> LogProbs:
    """Return the log-probabilities of items under one change."""
    progress = run.part(f"scores-{number}")
    return kept_scores(
        run.folder, f"scores-{change.key}", lambda: score_changed(run.model, items, change.sites, progress=progress)
    )


def _change_texts(run: Run, changes: Sequence[Change], neutral: Sequence[NeutralText]) -> list[TextChange]:
    """Return what the changes do to unrelated text."""
    variants = [change.sites for change in changes]
    texts = kept_text_changes(
        run.folder, "neutral", lambda: change_texts(run.model, neutral, variants, progress=run.part("neutral"))
    )
    for number, text in enumerate(texts):
        figures = {"tokens": text.tokens, "scored": text.scored, "loss": text.loss}
        for variant, change in enumerate(changes):
            changed = {"kl": text.kl[variant], "rise": text.rise[variant]}
            run.raw.append({"stage": "text", "treatment": change.name, "text": number, **figures, **changed})
    return texts


def _held(run: Run, change: Change, facts: Sequence[Item], stage: str) -> Float64[np.ndarray, " fact"] | None:
    """Return which facts hold under a change."""
    if not facts:
        return None
    progress = run.part(stage)
    found = kept_scores(
        run.folder, f"facts-{change.key}", lambda: score_changed(run.model, facts, change.sites, progress=progress)
    )
    for item, row in zip(facts, found.total, strict=True):
        asked = {candidate.name: candidate.text for candidate in item.candidates}
        fact = {"prompt": item.candidates[0].given, **asked, "log_probs": row.tolist()}
        run.raw.append({"stage": "fact", "treatment": change.name, **fact})
    return facts_hold(found)


def _untreated(run: Run, values: Values, costs: _Costs) -> Treatment:
    found = run.instrument.replicates(values, run.weights(count_items(values)))
    one = Treatment(
        "none", _UNTREATED.name, score_figure(run.instrument, values, found), also=named_figures(values, found)
    )
    if costs.held is None:
        return one
    share, _ = fact_figures(costs.held, costs.held, replicates=run.config.replicates, seed=run.config.seed)
    return replace(one, facts=share)


def _compare(run: Run, change: Change, before: Values, after: Values, features: Values) -> Treatment:
    """Return the score after a change, its change, and that of the features minus this one's, pair by pair."""
    weights = run.weights(count_items(before))
    was, now, with_features = (run.instrument.replicates(values, weights) for values in (before, after, features))
    return Treatment(
        change.kind,
        change.name,
        score_figure(run.instrument, after, now),
        change.features,
        change.seed,
        change=figure(now["score"] - was["score"]),
        versus_features=None if change.kind == "features" else figure(with_features["score"] - now["score"]),
        also=named_figures(after, now),
        also_change=_changes(after, now, was),
    )


def _changes(values: Values, now: Replicates, was: Replicates) -> list[NamedFigure]:
    """Return the change of each figure beside the score."""
    counts = {one.name: one.items for one in named_figures(values, now)}
    changes = {name: figure(now[name] - was[name]) for name in counts if name in was}
    return [NamedFigure(one.value, one.interval, name, counts[name]) for name, one in changes.items() if one]


def _with_costs(run: Run, one: Treatment, change: Change, number: int, costs: _Costs) -> Treatment:
    """Add what a change costs on unrelated text and on facts."""
    if costs.texts:
        loss, kl = text_costs(costs.texts, number, replicates=run.config.replicates, seed=run.config.seed)
        one = replace(one, loss=loss, kl=kl)
    held = _held(run, change, costs.facts, f"facts-{number}")
    if held is None or costs.held is None:
        return one
    share, moved = fact_figures(held, costs.held, replicates=run.config.replicates, seed=run.config.seed)
    return replace(one, facts=share, facts_change=moved)


def _deleted(run: Run, before: Values, features: Values) -> Treatment:
    """Return the control that deletes the words in which the sides differ: both are the same text then."""
    weights = run.weights(count_items(before))
    was, with_features = (run.instrument.replicates(values, weights)["score"] for values in (before, features))
    return Treatment(
        "tokens",
        "Differing words deleted, so that the sides are equal",
        Figure(0.5, None),
        change=figure(0.5 - was),
        versus_features=figure(with_features - 0.5),
    )
