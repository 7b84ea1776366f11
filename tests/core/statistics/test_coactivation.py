"""Co-active features by a token table against those by counts of all pairs, which are plainer."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from sae_core.progress import silent
from sae_core.saes import SAEConfig
from sae_core.statistics import coactivation
from sae_core.statistics.coactivation import Coactive, coactive_features
from sae_core.statistics.token_table import TokenTable
from sae_core.store.activation_store import ActivationStore, build_store
from sae_core.store.segments import concatenate
from tests.core.statistics import small
from tests.core.statistics.small import Cut, Identity

SEQUENCES = small.small_sequences()
TOKENS = int(SEQUENCES.counted.sum())
FEATURES = 150


def store_of(folder: Path, density: float) -> ActivationStore:
    """Random features, of which every third is another's twin and some are dead, so that many scores are equal."""
    random = np.random.default_rng(0)
    f = (random.random((*SEQUENCES.counted.shape, FEATURES)) < density).astype(np.float32)
    f[:, :, 2::3] = f[:, :, 1::3]
    f[:, :, :20] *= random.random((*SEQUENCES.counted.shape, 1)) < 0.5  # active together
    f[:, :, 100:110] = 0
    sae = Identity(SAEConfig(d_in=FEATURES, d_sae=FEATURES))
    return build_store(sae, Cut(f, [7, 8, 25]), SEQUENCES, folder)


def equal(found: tuple[Coactive, np.ndarray], expected: tuple[Coactive, np.ndarray]) -> None:
    for field in fields(Coactive):
        np.testing.assert_array_equal(getattr(found[0], field.name), getattr(expected[0], field.name), field.name)
        assert getattr(found[0], field.name).dtype == getattr(expected[0], field.name).dtype
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("density", [0.06, 0.1, 0.4])
def test_both_ways_give_the_same_to_the_bit(tmp_path: Path, density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, density)
    near = np.random.default_rng(1).integers(-1, FEATURES, (FEATURES, 4)).astype(np.int32)
    near[near == np.arange(FEATURES)[:, None]] = -1
    expected = coactive_features(store, range(FEATURES), TOKENS, near, silent)
    full = (expected[0].ids >= 0).all(axis=1)
    assert full.any() and not full.all()
    chosen = np.diff(expected[0].given_other[full], axis=1)
    assert (chosen == 0).any()  # equal scores, which are told apart by number
    table = TokenTable.of(store, values=False)
    equal(coactive_features(store, range(FEATURES), TOKENS, near, silent, table), expected)
    monkeypatch.setattr(coactivation, "OWN_NONZEROS", 50)
    monkeypatch.setattr(coactivation, "ROWS", 7)
    parts = [
        coactive_features(store, part, TOKENS, near[part.start : part.stop], silent, table)
        for part in (range(40), range(40, 41), range(41, FEATURES))
    ]
    equal((concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])), expected)


def test_a_token_table_has_the_features_of_each_token(tmp_path: Path) -> None:
    store = store_of(tmp_path, 0.1)
    table, block = TokenTable.of(store, values=True), store.block(0, FEATURES)
    on = [set(block.row[block.position == token].tolist()) for token in range(len(table.first) - 1)]
    assert len(on) == SEQUENCES.counted.size
    for token, features in enumerate(on):
        own = slice(table.first[token], table.first[token + 1])
        assert table.feature[own].tolist() == sorted(features)
    assert table.value.sum() == block.value.sum()


def test_progress_with_a_token_table_ends_at_the_features(tmp_path: Path) -> None:
    store, told = store_of(tmp_path, 0.1), []
    near = np.full((50, 1), -1, np.int32)
    coactive_features(
        store, range(30, 80), TOKENS, near, lambda *report: told.append(report), TokenTable.of(store, values=False)
    )
    assert told[-1] == (50, 50)
    with pytest.raises(InterruptedError):
        coactive_features(store, range(30, 80), TOKENS, near, stopped, TokenTable.of(store, values=False))


def stopped(*_: object) -> None:
    raise InterruptedError
