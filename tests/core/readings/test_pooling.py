"""Pooled features and scores are those of dense arithmetic by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sae_core.readings import Part, Pool, Reading, Tokens, count_tokens, pool_features, pool_scores, select_texts
from sae_core.readings.reading import RESIDUAL_POOLS

LENGTHS = [9, 0, 1, 30, 4]


@pytest.fixture(scope="module")
def reading() -> Reading:
    """Five texts, one of them empty: sparse activations, and parts at random."""
    random = np.random.default_rng(0)
    tokens = sum(LENGTHS)
    dense = random.random((tokens, 7)) * (random.random((tokens, 7)) < 0.3)
    return Reading(
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]),
        token_ids=random.integers(0, 50, tokens).astype(np.int32),
        parts=random.choice([Part.TEXT, Part.USER, Part.ASSISTANT, Part.TEMPLATE], tokens).astype(np.uint8),
        features=sparse.csr_array(dense.astype(np.float32)),
        residual={pool: random.random((5, 3)).astype(np.float32) for pool in RESIDUAL_POOLS},
        truncated=np.zeros(5, bool),
    )


def by_hand(values: np.ndarray, pool: Pool) -> np.ndarray:
    match pool:
        case "max":
            return values.max(axis=0)
        case "mean":
            return values.mean(axis=0)
        case "top":
            return np.sort(values, axis=0)[::-1][:5].mean(axis=0)
        case "ema":
            return pd.DataFrame(values).ewm(halflife=8).mean().max().to_numpy()


def chosen(reading: Reading, text: int, tokens: Tokens) -> np.ndarray:
    places = np.arange(reading.offsets[text], reading.offsets[text + 1])
    parts = reading.parts[places]
    match tokens:
        case "all":
            return places[parts != Part.TEMPLATE]
        case "user":
            return places[parts == Part.USER]
        case "assistant":
            return places[parts == Part.ASSISTANT]
        case "last":
            return places[-1:]


@pytest.mark.parametrize("tokens", ["all", "user", "assistant", "last"])
@pytest.mark.parametrize("pool", ["max", "mean", "top", "ema"])
def test_pooling_is_the_arithmetic_of_each_text_by_itself(reading: Reading, pool: Pool, tokens: Tokens) -> None:
    dense = reading.features.toarray().astype(np.float64)
    scores = np.random.default_rng(1).normal(size=reading.tokens)
    features, pooled = pool_features(reading, pool, tokens), pool_scores(scores, reading, pool, tokens)
    assert features.shape == (5, 7) and features.dtype == np.float32
    for text in range(5):
        places = chosen(reading, text, tokens)
        assert count_tokens(reading, tokens)[text] == len(places)
        if len(places):
            np.testing.assert_allclose(features.toarray()[text], by_hand(dense[places], pool), rtol=1e-6)
            np.testing.assert_allclose(pooled[text], by_hand(scores[places, None], pool)[0])
        else:
            assert features[[text]].nnz == 0 and np.isnan(pooled[text])


def test_a_feature_pools_as_its_activations_do_as_scores(reading: Reading) -> None:
    for pool in ("max", "mean", "top", "ema"):
        scores = np.nan_to_num(pool_scores(reading.features.toarray()[:, 3], reading, pool, "all"))
        np.testing.assert_allclose(pool_features(reading, pool).toarray()[:, 3], scores, rtol=1e-6)


def test_a_part_of_a_reading_is_that_of_its_texts(reading: Reading) -> None:
    part = select_texts(reading, [3, 1, 0])
    assert part.lengths.tolist() == [30, 0, 9]
    np.testing.assert_array_equal(
        pool_features(part, "mean").toarray(), pool_features(reading, "mean").toarray()[[3, 1, 0]]
    )
    np.testing.assert_array_equal(part.token_ids[:30], reading.token_ids[10:40])
    np.testing.assert_array_equal(part.residual["last"], reading.residual["last"][[3, 1, 0]])
