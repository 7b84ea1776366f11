"""Log-probabilities of texts under a model, exact, in batches: the same as one text alone gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from sae_core.auditing.items import Candidate, Item, join_words
from sae_core.errors import AuditError
from sae_core.models import LanguageModel
from sae_core.progress import Progress, silent

BATCH_TOKENS = 1024
"""Tokens of a forward pass, with padding: each needs a row of logits."""


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of the candidates of items, in nats; NaN where an item has fewer candidates."""

    total: Float64[np.ndarray, "item candidate"]
    """Summed over the tokens of the candidate, given what stands before it."""
    tokens: Int64[np.ndarray, "item candidate"]
    """Those tokens."""

    @property
    def mean(self) -> Float64[np.ndarray, "item candidate"]:
        """Per token."""
        mean: Float64[np.ndarray, "item candidate"] = self.total / np.maximum(self.tokens, 1)
        return mean


def split_tokens(model: LanguageModel, candidate: Candidate) -> tuple[list[int], list[int]]:
    """Return the tokens that are given, BOS first, and those that are scored.

    Without a BOS token the first token of a text has nothing before it, and is given.
    """
    before = model.tokenize(candidate.given)
    whole = model.tokenize(join_words(candidate.given, candidate.text))
    if whole[: len(before)] != before:  # the first new word changes the last token that is given
        whole = before + model.tokenize(candidate.text, prepend_bos=False)
    cut = max(len(before), 1)
    return whole[:cut], whole[cut:]


def fits(model: LanguageModel, item: Item, max_tokens: int) -> bool:
    """Return True if the model reads every candidate of an item whole, and has something to score in it."""
    limit = max_tokens if model.context_length is None else min(max_tokens, model.context_length)
    parts = [split_tokens(model, candidate) for candidate in item.candidates]
    return all(scored and len(given) + len(scored) <= limit for given, scored in parts)


def score_items(model: LanguageModel, items: Sequence[Item], *, progress: Progress = silent) -> LogProbs:
    """Return the log-probability of every candidate: the sum over its tokens of log p(token | all before it).

    Sequences are padded on the right, where a causal model cannot look.

    Raises:
        ModelError: a candidate is longer than the model's context.
        AuditError: a log-probability is not a number.
    """
    width = max((len(item.candidates) for item in items), default=0)
    total = np.full((len(items), width), np.nan)
    tokens = np.zeros((len(items), width), np.int64)
    pieces = [
        (row, column, *split_tokens(model, candidate))
        for row, item in enumerate(items)
        for column, candidate in enumerate(item.candidates)
    ]
    pieces.sort(key=lambda piece: len(piece[2]) + len(piece[3]))
    sizes = [len(given) + len(scored) for _, _, given, scored in pieces]
    done, of = 0, sum(sizes)
    start = 0
    while start < len(pieces):
        end = start + 1
        while end < len(pieces) and sizes[end] * (end + 1 - start) <= BATCH_TOKENS:
            end += 1
        batch = pieces[start:end]
        found = _score(model, [(given, scored) for _, _, given, scored in batch])
        for (row, column, _, scored), value in zip(batch, found, strict=True):
            total[row, column], tokens[row, column] = value, len(scored)
        done += sum(sizes[start:end])
        start = end
        progress(done, of)
    if np.isnan(total[tokens > 0]).any():
        raise AuditError(f"{model.name} gives log-probabilities that are not numbers. Is its file damaged?")
    return LogProbs(total, tokens)


def _score(model: LanguageModel, batch: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    ids = torch.zeros((len(batch), max(len(given) + len(scored) for given, scored in batch)), dtype=torch.long)
    for row, (given, scored) in enumerate(batch):
        ids[row, : len(given) + len(scored)] = torch.tensor(given + scored)
    logits = model.logits(ids)
    found = []
    for row, (given, scored) in enumerate(batch):
        own = logits[row, len(given) - 1 : len(given) + len(scored) - 1]
        wanted = torch.tensor(scored, device=own.device)
        chosen = own.gather(1, wanted[:, None])[:, 0] - own.logsumexp(dim=1)
        found.append(float(chosen.double().sum()))
    return found
