"""What a change costs besides: on unrelated text, on facts, and on the sentences of the audit themselves."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from sae_core.auditing.config import NeutralText
from sae_core.auditing.intervals import bootstrap_weights, figure, wilson
from sae_core.auditing.items import Candidate, Item
from sae_core.auditing.results import Figure
from sae_core.auditing.scoring import LogProbs, score_items
from sae_core.effects import Fact, TextChange, change_of_text
from sae_core.interventions import Site, intervene
from sae_core.models import LanguageModel
from sae_core.progress import Progress, silent


def score_changed(
    model: LanguageModel, items: Sequence[Item], sites: Sequence[Site], *, progress: Progress = silent
) -> LogProbs:
    """Return the log-probabilities of items while interventions are on; without sites, of the model as it is."""
    with intervene(model, sites) if sites else nullcontext():
        return score_items(model, items, progress=progress)


def change_texts(
    model: LanguageModel,
    texts: Sequence[NeutralText],
    variants: Sequence[Sequence[Site]],
    *,
    progress: Progress = silent,
) -> list[TextChange]:
    """Return what each variant changes on each text."""
    found = []
    for number, text in enumerate(texts):
        found.append(change_of_text(model, text.token_ids, text.counted, variants)[0])
        progress(number + 1, len(texts))
    return found


def text_costs(
    changes: Sequence[TextChange], variant: int, *, replicates: int, seed: int
) -> tuple[Figure | None, Figure | None]:
    """Return the rise of the loss and the KL of one variant, in nats per token."""
    weights = bootstrap_weights(len(changes), replicates, seed)
    scored, tokens = (np.array([getattr(one, name) for one in changes], float) for name in ("scored", "tokens"))
    rise = np.array([one.rise[variant] for one in changes])
    kl = np.array([one.kl[variant] for one in changes])
    with np.errstate(invalid="ignore", divide="ignore"):
        return figure(weights @ rise / (weights @ scored)), figure(weights @ kl / (weights @ tokens))


def fact_items(facts: Sequence[Fact]) -> list[Item]:
    """Return facts as items: the expected continuation, then the other."""
    return [
        Item(
            str(number),
            "facts",
            (Candidate("expected", fact.expected, fact.prompt), Candidate("other", fact.forbidden or "", fact.prompt)),
        )
        for number, fact in enumerate(facts)
    ]


def facts_hold(found: LogProbs) -> np.ndarray:
    """Return 1 for each fact whose expected continuation is likelier than the other, else 0."""
    held: np.ndarray = (found.total[:, 0] > found.total[:, 1]).astype(float)
    return held


def fact_figures(held: np.ndarray, before: np.ndarray, *, replicates: int, seed: int) -> tuple[Figure, Figure | None]:
    """Return the share of facts that hold, and its change, fact by fact."""
    share = float(held.mean())
    weights = bootstrap_weights(len(held), replicates, seed)
    return Figure(share, wilson(share, len(held))), figure(weights @ (held - before) / len(held))


def sentence_cost(found: LogProbs, before: LogProbs, *, replicates: int, seed: int) -> Figure | None:
    """Return the rise of the loss on the first two candidates of items, in nats per token."""
    rise = (before.total[:, :2] - found.total[:, :2]).sum(axis=1)
    tokens = before.tokens[:, :2].sum(axis=1)
    weights = bootstrap_weights(len(rise), replicates, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return figure(weights @ rise / (weights @ tokens))
