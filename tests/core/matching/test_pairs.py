"""Pairs counted by compiled loops against those of sums of sparse matrices."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sae_core.matching import pairs
from sae_core.matching.pairs import Activity, Asked, Pairs
from sae_core.progress import silent
from sae_core.statistics import token_table
from tests.core.matching.test_match import A, B, M, N, store_of

LEAST = 5
Row = tuple[int, int, int, float, float]


@pytest.fixture(scope="module")
def activity(tmp_path_factory: pytest.TempPathFactory) -> Activity:
    folder = tmp_path_factory.mktemp("stores")
    return Activity.of(store_of(A, folder / "a", [10, 11, 30]), store_of(B, folder / "b", [17, 23]))


NOBODY = Asked.of_both(np.full(N, -1, np.int32), np.full(M, -1, np.int32))


def rows(found: Iterator[Pairs]) -> set[Row]:
    """Each pair, to the last bit of its sums."""
    every: list[Row] = []
    for some in found:
        assert (np.diff(some.row) >= 0).all()
        columns = (some.row, some.column, some.joint, some.product, some.correlation)
        every += zip(*(column.tolist() for column in columns), strict=True)
    return set(every)


@pytest.mark.parametrize("nonzeros", [1, 100, 1 << 18])
@pytest.mark.parametrize("features", [1, 7, 1 << 13])
def test_pairs_are_those_of_the_sparse_matrices_to_the_bit(
    activity: Activity, nonzeros: int, features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "OWN_NONZEROS", nonzeros)
    monkeypatch.setattr(pairs, "OWN_FEATURES", features)
    monkeypatch.setattr(token_table, "CHUNK_NONZEROS", nonzeros)
    expected = rows(activity.all_pairs(silent))
    assert rows(activity.pairs(NOBODY, 1, silent)) == expected
    enough = {row for row in expected if row[2] >= LEAST}
    assert 0 < len(enough) < len(expected)
    assert rows(activity.pairs(NOBODY, LEAST, silent)) == enough


def test_sums_over_chunks_differ_in_their_last_bits_alone(activity: Activity, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {row[:3]: row[3:] for row in rows(activity.all_pairs(silent))}
    monkeypatch.setattr(pairs, "CHUNK_NONZEROS", 100)
    assert len(activity._chunks()) > 2
    parts = {row[:3]: row[3:] for row in rows(activity.all_pairs(silent))}
    assert parts.keys() == whole.keys()
    assert [parts[pair] for pair in whole] == [pytest.approx(sums, rel=1e-6, abs=1e-6) for sums in whole.values()]


def test_pairs_that_are_asked_for_come_however_few_tokens_they_share(activity: Activity) -> None:
    random = np.random.default_rng(0)
    near_a, near_b = random.integers(-1, M, N).astype(np.int32), random.integers(-1, N, M).astype(np.int32)
    asked = {(i, j) for i, j in enumerate(near_a.tolist()) if j >= 0}
    asked |= {(i, j) for j, i in enumerate(near_b.tolist()) if i >= 0}
    every = {row[:2]: row for row in rows(activity.all_pairs(silent))}
    found = rows(activity.pairs(Asked.of_both(near_a, near_b), 10**6, silent))
    assert {row[:2] for row in found} == asked
    assert any(row[2] == 0 for row in found)
    assert {row for row in found if row[2]} == {every[pair] for pair in asked if pair in every}


def test_a_store_that_is_too_large_for_a_table_gives_all_pairs(
    activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = 8 * sum(activity.b.shard_nonzeros) + 16 * len(activity.b.positions(range(activity.b.n_shards)))
    monkeypatch.setattr(token_table, "HELD_BYTES", held)
    assert len(rows(activity.pairs(NOBODY, LEAST, silent))) < len(rows(activity.all_pairs(silent)))
    monkeypatch.setattr(token_table, "HELD_BYTES", held - 1)
    assert rows(activity.pairs(NOBODY, LEAST, silent)) == rows(activity.all_pairs(silent))


def test_features_without_tokens_have_no_pairs(tmp_path: Path) -> None:
    nothing = store_of(np.zeros_like(A), tmp_path / "a", [])
    dead = Activity.of(nothing, store_of(B, tmp_path / "b", []))
    assert rows(dead.pairs(NOBODY, 1, silent)) == set()
    assert rows(dead.swapped().pairs(Asked(np.zeros(M + 1, np.int64), np.zeros(0, np.int64)), 1, silent)) == set()
