"""Pooling of a text that grows, beside pooling of the whole."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from sae_core.monitoring import RunningPool
from sae_core.readings import Part, Pool, Reading, pool_features, pool_scores
from sae_core.readings.reading import RESIDUAL_POOLS

VALUES = st.floats(-100, 100, width=32)


def reading_of(features: np.ndarray, lengths: list[int]) -> Reading:
    tokens, texts = len(features), len(lengths)
    return Reading(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        token_ids=np.zeros(tokens, np.int32),
        parts=np.full(tokens, Part.TEXT, np.uint8),
        features=sparse.csr_array(features.astype(np.float32)),
        residual={pool: np.zeros((texts, 4), np.float32) for pool in RESIDUAL_POOLS},
        truncated=np.zeros(texts, bool),
    )


@pytest.mark.parametrize("pool", ["max", "mean", "top", "ema"])
@given(
    values=st.integers(1, 30).flatmap(lambda tokens: arrays(np.float32, (tokens, 2), elements=VALUES)),
    cut=st.integers(0, 30),
    last=st.booleans(),
)
def test_after_the_last_token_it_is_the_pool_of_the_text(pool: Pool, values: np.ndarray, cut: int, last: bool) -> None:
    running = RunningPool(pool, 2, only_last=last)
    found = np.vstack([running.extend(values[:cut]), running.extend(values[cut:])])
    assert running.count == len(values)
    one_by_one = RunningPool(pool, 2, only_last=last)
    np.testing.assert_allclose(np.vstack([one_by_one.extend(row[None]) for row in values]), found, atol=1e-9)
    for end in range(1, len(values) + 1):
        text = reading_of(np.zeros((end, 1)), [end])
        tokens = "last" if last else "all"
        expected = [pool_scores(values[:end, channel], text, pool, tokens)[0] for channel in (0, 1)]
        np.testing.assert_allclose(found[end - 1], expected, atol=1e-6)


@pytest.mark.parametrize("pool", ["max", "mean", "top", "ema"])
def test_features_that_are_rarely_active_pool_alike(pool: Pool) -> None:
    generator = np.random.default_rng(0)
    lengths = [12, 1, 40, 3]
    features = np.where(generator.random((56, 7)) < 0.2, generator.random((56, 7)), 0)
    features[13:53, 3] = 0
    reading = reading_of(features, lengths)
    pooled = pool_features(reading, pool).toarray()
    for text in range(4):
        values = reading.features[reading.offsets[text] : reading.offsets[text + 1]].toarray()
        np.testing.assert_allclose(RunningPool(pool, 7).extend(values)[-1], pooled[text], rtol=1e-5, atol=1e-7)


def test_the_moving_average_is_that_of_pandas() -> None:
    values = np.random.default_rng(1).normal(size=50)
    expected = pd.Series(values).ewm(halflife=8).mean().cummax()
    np.testing.assert_allclose(RunningPool("ema", 1).extend(values[:, None])[:, 0], expected)
