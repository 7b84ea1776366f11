"""Log-probabilities of texts under a model, exact, in batches: the same as one text alone gives."""

from collections.abc import Iterator, Sequence
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

    Sequences are padded on the right, where a causal model cannot look. A candidate whose tokens, but for the last, are
    the start of another's is read off that one's pass.

    Raises:
        ModelError: a candidate is longer than the model's context.
        AuditError: a log-probability is not a number.
    """
    width = max((len(item.candidates) for item in items), default=0)
    total = np.full((len(items), width), np.nan)
    tokens = np.zeros((len(items), width), np.int64)
    groups = _groups(model, items)
    done, of = 0, sum(len(group[-1].read) for group in groups)
    for batch in _batches(groups):
        for piece, value in _score(model, batch):
            total[piece.row, piece.column], tokens[piece.row, piece.column] = value, len(piece.scored)
        done += sum(len(group[-1].read) for group in batch)
        progress(done, of)
    if np.isnan(total[tokens > 0]).any():
        raise AuditError(f"{model.name} gives log-probabilities that are not numbers. Is its file damaged?")
    return LogProbs(total, tokens)


def tokens_to_read(model: LanguageModel, items: Sequence[Item]) -> int:
    """Return how many tokens the model reads to score items once, without padding."""
    return sum(len(group[-1].read) for group in _groups(model, items))


@dataclass(frozen=True)
class _Piece:
    """A candidate as tokens, and where its score goes."""

    row: int
    column: int
    given: list[int]
    scored: list[int]

    @property
    def read(self) -> list[int]:
        """What the model reads: nothing is predicted from the last token."""
        return (self.given + self.scored)[:-1]


def _groups(model: LanguageModel, items: Sequence[Item]) -> list[list[_Piece]]:
    """Return what one pass each serves, the shortest first."""
    pieces = [
        _Piece(row, column, *split_tokens(model, candidate))
        for row, item in enumerate(items)
        for column, candidate in enumerate(item.candidates)
    ]
    return sorted(_shared(pieces), key=lambda group: len(group[-1].read))


def _shared(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Yield groups of candidates that one pass serves; the last of each is the whole of what is read."""
    group: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.read):  # a start comes right before what begins with it
        if group and group[-1].read != piece.read[: len(group[-1].read)]:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _batches(groups: Sequence[list[_Piece]]) -> Iterator[list[list[_Piece]]]:
    """Yield batches of groups, which come by length, of at most `BATCH_TOKENS` with padding."""
    batch: list[list[_Piece]] = []
    for group in groups:
        if batch and len(group[-1].read) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _score(model: LanguageModel, batch: Sequence[list[_Piece]]) -> Iterator[tuple[_Piece, float]]:
    read = [group[-1].read for group in batch]
    ids = torch.zeros((len(read), max(map(len, read))), dtype=torch.long)
    for row, token_ids in enumerate(read):
        ids[row, : len(token_ids)] = torch.tensor(token_ids)
    logits = model.logits(ids)
    for row, group in enumerate(batch):
        for piece in group:
            own = logits[row, len(piece.given) - 1 : len(piece.read)]
            wanted = torch.tensor(piece.scored, device=own.device)
            chosen = own.gather(1, wanted[:, None])[:, 0] - own.logsumexp(dim=1)
            yield piece, float(chosen.double().sum())
