"""Examples from a store, compared with its dense activations."""

from pathlib import Path

import numpy as np
import pytest

from app.inference.example_sampler import ActivationRange, sample_examples
from sae_core.evaluation.held_out import is_held_out
from sae_core.store.activation_store import ActivationStore, build_store
from tests.core.statistics import small

SEQUENCES = small.small_sequences()
F = small.small_activations(SEQUENCES) * SEQUENCES.counted[:, :, None]
FEATURE = small.DENSE
VALUES = F[:, :, FEATURE] * ~is_held_out(SEQUENCES.sha256, np.arange(small.SEQUENCES))[:, None]
"""Activations that can be drawn."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    folder: Path = tmp_path_factory.mktemp("store")
    return build_store(small.small_sae(), small.Cut(F, [7, 20]), SEQUENCES, folder / "store")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e9), (1.0, 2.5), (2.5, 2.5001), (50.0, 60.0)])
def test_sampled_examples_lie_in_the_range(store: ActivationStore, low: float, high: float) -> None:
    found, examples = sample_examples(store, ActivationRange(FEATURE, low, high), length=small.LENGTH, limit=8, seed=1)
    inside = (low < VALUES) & (high >= VALUES)
    assert found == inside.sum()
    assert len(examples) == min(8, inside.any(axis=1).sum())
    assert len({example.sequence for example in examples}) == len(examples)
    for example in examples:
        row = VALUES[example.sequence]
        assert low < example.activation <= high
        assert row[example.position] == np.float32(example.activation)
        assert example.positions == np.flatnonzero(row).tolist()
        assert example.values == row[row > 0].tolist()
    strength = [example.activation for example in examples]
    assert strength == sorted(strength, reverse=True)


def test_equal_seeds_give_the_same_sample_and_others_do_not(store: ActivationStore) -> None:
    def drawn(seed: int) -> list[int]:
        _, examples = sample_examples(store, ActivationRange(FEATURE, 0, 1e9), length=small.LENGTH, limit=8, seed=seed)
        return sorted(example.sequence for example in examples)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_sequences_are_sampled_equally_often(store: ActivationStore) -> None:
    """Among sequences with one activation in the range; others are sampled more often, as intended."""
    low, high = 1.0, 1.3
    single = np.flatnonzero(((low < VALUES) & (high >= VALUES)).sum(axis=1) == 1)
    assert len(single) >= 5
    times = dict.fromkeys(single.tolist(), 0)
    for seed in range(300):
        _, examples = sample_examples(
            store, ActivationRange(FEATURE, low, high), length=small.LENGTH, limit=3, seed=seed
        )
        for example in examples:
            if example.sequence in times:
                times[example.sequence] += 1
    assert min(times.values()) > 0.5 * max(times.values())


def test_an_example_of_one_sequence_is_at_its_strongest_token(store: ActivationStore) -> None:
    sequence = int(np.where(VALUES.any(axis=1), VALUES.max(axis=1), np.inf).argmin())
    _, [example] = sample_examples(
        store, ActivationRange(FEATURE, 0, 1e9, sequence), length=small.LENGTH, limit=1, seed=0
    )
    assert (example.sequence, example.position) == (sequence, int(VALUES[sequence].argmax()))


def test_sequences_held_out_for_blind_tests_are_never_drawn(store: ActivationStore) -> None:
    held_out = np.flatnonzero(is_held_out(SEQUENCES.sha256, np.arange(small.SEQUENCES)))
    assert len(held_out)
    for sequence in held_out.tolist():
        assert F[sequence, :, FEATURE].any()
        wanted = ActivationRange(FEATURE, 0, 1e9, sequence)
        assert sample_examples(store, wanted, length=small.LENGTH, limit=5, seed=0) == (0, [])


def test_a_dead_feature_has_no_examples(store: ActivationStore) -> None:
    assert sample_examples(store, ActivationRange(small.DEAD, 0, 1e9), length=small.LENGTH, limit=5, seed=0) == (0, [])
