"""Coherence equals numbers computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sae_core.corpora import CorpusInfo, Sequences
from sae_core.models import InputTokens
from sae_core.statistics.coherence import coherence
from sae_core.statistics.types import Examples

TOKENS = np.repeat([0, 1, 2, 3], [16, 8, 4, 4]).astype(np.int32)
"""Of 32 counted tokens, a half are 0, a quarter 1, an eighth 2 and an eighth 3: 1, 2, 3 and 3 bits."""
MEAN = torch.tensor([5.0, -3.0])
EMBEDDINGS = MEAN + torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
"""Less their mean: 0 and 1 are opposite, as are 2 and 3; the others are at right angles. Token 4 is the mean."""
INPUT = InputTokens(EMBEDDINGS, np.arange(5))


def sequences_of(tokens: np.ndarray, counted: np.ndarray | None = None) -> Sequences:
    """One sequence of these tokens."""
    counted = np.ones(len(tokens), bool) if counted is None else counted
    corpus = CorpusInfo("one", "One", "one.json", None, None, "0" * 64)
    document_of = np.zeros((1, len(tokens)), np.int32)
    return Sequences(len(tokens), 9, tokens[None], counted[None], document_of, [], corpus, "1" * 64)


def examples_at(*positions: list[int]) -> Examples:
    """Examples of features 0, 1, … at these positions of the sequence."""
    m = sum(map(len, positions))
    position = np.concatenate([np.array(each, np.int16) for each in positions])
    return Examples(
        feature=np.repeat(np.arange(len(positions)), list(map(len, positions))).astype(np.int32),
        band=np.zeros(m, np.int8),
        rank=np.zeros(m, np.int16),
        sequence=np.zeros(m, np.int32),
        position=position,
        activation=np.ones(m, np.float32),
        indptr=np.arange(m + 1),
        positions=position,
        values=np.ones(m, np.float32),
    )


def one(tokens: list[int]) -> float:
    """The coherence of a feature with examples on these tokens."""
    first = {token: int(np.flatnonzero(token == TOKENS)[0]) for token in set(tokens)}
    examples = examples_at([first[token] for token in tokens])
    return float(coherence(examples, sequences_of(TOKENS), INPUT, 1)[0])


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([2] * 20, 3.0),  # one token: its bits
        ([0] * 25, 1.0),
        ([0] * 10 + [2] * 10, (10 * 9 * 2) / (20 * 19) * (1 + 3) / 2),  # half alike, half at right angles
        ([2] * 15 + [3] * 5, (15 * 14 + 5 * 4 - 2 * 15 * 5) / (20 * 19) * 3),  # opposite pairs count -1
        ([0] * 10 + [1] * 10, (2 * 10 * 9 - 2 * 10 * 10) / (20 * 19) * 1.5),  # below 0
    ],
)
def test_coherence_is_mean_similarity_times_mean_information(tokens: list[int], expected: float) -> None:
    assert one(tokens) == pytest.approx(expected, rel=1e-6)


def test_fewer_than_twenty_examples_have_none() -> None:
    assert np.isnan(one([2] * 19))


def test_an_embedding_that_is_the_mean_is_like_nothing() -> None:
    tokens = np.array([0] * 16 + [4] * 16, np.int32)
    found = coherence(examples_at([0] * 10 + [20] * 10), sequences_of(tokens), INPUT, 1)
    assert found[0] == pytest.approx(10 * 9 / (20 * 19) * 1)


def test_spellings_of_a_word_share_its_information_and_not_its_embedding() -> None:
    of_two_words = replace(INPUT, spellings=np.array([0, 0, 1, 1, 2]))
    examples = examples_at([24] * 10 + [28] * 10)
    found = coherence(examples, sequences_of(TOKENS), of_two_words, 1)
    assert found[0] == pytest.approx((2 * 10 * 9 - 2 * 10 * 10) / (20 * 19) * 2)


def test_each_feature_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead features and blocks of one feature shift nothing."""
    examples = examples_at([], [24] * 20, [0] * 3, [0] * 20, [])
    expected = [np.nan, 3.0, np.nan, 1.0, np.nan, np.nan]
    assert coherence(examples, sequences_of(TOKENS), INPUT, 6) == pytest.approx(expected, nan_ok=True)
    monkeypatch.setattr("sae_core.statistics.coherence.BLOCK_FEATURES", 1)
    assert coherence(examples, sequences_of(TOKENS), INPUT, 6) == pytest.approx(expected, nan_ok=True)


def test_tokens_that_are_not_counted_say_nothing() -> None:
    tokens = np.concatenate([TOKENS, np.full(32, 2, np.int32)])
    counted = np.arange(64) < 32
    found = coherence(examples_at([24] * 20), sequences_of(tokens, counted), INPUT, 1)
    assert found[0] == pytest.approx(3.0)


def test_half_precision_embeddings_are_read_in_single() -> None:
    found = coherence(
        examples_at([24] * 20), sequences_of(TOKENS), replace(INPUT, embeddings=INPUT.embeddings.bfloat16()), 1
    )
    assert found[0] == pytest.approx(3.0, rel=1e-5)


def test_no_examples_at_all() -> None:
    assert np.isnan(coherence(examples_at([]), sequences_of(TOKENS), INPUT, 2)).all()
