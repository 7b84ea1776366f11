"""Held-out sequences and their windows, against dense activations."""

import numpy as np

from sae_core.evaluation.held_out import WindowGrid, held_out_sequences, is_held_out
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import bounds


def test_a_fifth_of_the_sequences_is_held_out_by_set_and_number() -> None:
    numbers = np.arange(20_000)
    held_out = is_held_out("a" * 64, numbers)
    assert abs(held_out.mean() - 0.2) < 0.01
    assert (is_held_out("a" * 64, numbers[500:600]) == held_out[500:600]).all()
    of_other = is_held_out("b" * 64, numbers)
    assert abs((held_out & of_other).mean() - 0.04) < 0.005  # independent of each other
    own = held_out_sequences("a" * 64, 200, without={int(np.flatnonzero(held_out)[0])})
    assert own.tolist() == np.flatnonzero(held_out[:200])[1:].tolist()
    # Tests that were drawn stay valid only while the same sequences are held out.
    assert np.flatnonzero(held_out)[:5].tolist() == [1, 9, 11, 12, 13]


def test_windows_of_a_feature_hold_its_strongest_activations() -> None:
    length, sequences = 70, 9  # windows of 32, 32 and 6 positions
    random = np.random.default_rng(0)
    dense = np.where(random.random((sequences, length)) < 0.03, random.gamma(1, 2, (sequences, length)), 0)
    dense = np.ceil(dense).astype(np.float32)  # with ties
    flat = np.flatnonzero(dense.reshape(-1))
    block = FeatureBlock(5, bounds(np.array([len(flat)])), flat.astype(np.int32), dense.reshape(-1)[flat])
    grid = WindowGrid(length)
    assert (grid.size, grid.per_sequence) == (32, 3)
    windows = grid.active(block)
    found = dict(zip(windows.number.tolist(), zip(windows.peak, windows.position, strict=True), strict=True))
    for window in range(sequences * 3):
        sequence, start = grid.sequence(window), grid.start(window)
        row = dense[sequence, start : start + 32]
        assert grid.activations(block, window) == {int(i): row[i] for i in np.flatnonzero(row)}
        if row.any():
            assert found.pop(window) == (row.max(), start + row.argmax())
    assert not found


def test_short_sequences_are_one_window() -> None:
    grid = WindowGrid(16)
    assert (grid.size, grid.per_sequence, grid.sequence(7), grid.start(7)) == (16, 1, 7, 0)
