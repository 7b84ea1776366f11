"""Segment arithmetic where it is easy to be off by one: empty segments and ties."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_core.store import segments

SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])


@given(st.lists(st.integers(0, 3), max_size=8))
def test_reductions_take_empty_segments_for_zero(lengths: list[int]) -> None:
    indptr = segments.bounds(np.array(lengths, np.int64))
    values = np.arange(1, indptr[-1] + 1, dtype=np.float64)
    pieces = np.split(values, indptr[1:-1]) if lengths else []
    assert segments.total(values, indptr).tolist() == [piece.sum() for piece in pieces]
    assert segments.maximum(values.astype(np.float32), indptr).tolist() == [max(piece, default=0) for piece in pieces]


@given(
    st.integers(1, 6).flatmap(lambda columns: st.lists(st.tuples(*[st.tuples(SCORES, SCORES)] * columns), min_size=1)),
    st.integers(1, 4),
)
def test_top_k_breaks_ties_by_the_second_score_then_by_column(rows: list[tuple], k: int) -> None:
    table = torch.tensor(rows)
    columns, values = segments.top_k(table[..., 0], k, then=table[..., 1].nan_to_num(neginf=-9))
    for i, row in enumerate(rows):
        order = sorted((-score, -max(tie, -9), c) for c, (score, tie) in enumerate(row) if score > -np.inf)[:k]
        assert columns[i].tolist() == [c for *_, c in order] + [-1] * (k - len(order))
        assert values[i].tolist() == [-score for score, *_ in order] + [0] * (k - len(order))


@given(st.lists(st.integers(0, 10), max_size=20), st.integers(1, 15), st.integers(1, 6))
def test_cut_covers_everything_within_its_limits(sizes: list[int], max_size: int, max_items: int) -> None:
    cuts = segments.cut(sizes, max_size, max_items)
    assert [i for start, stop in cuts for i in range(start, stop)] == list(range(len(sizes)))
    for start, stop in cuts:
        assert stop - start == 1 or (sum(sizes[start:stop]) <= max_size and stop - start <= max_items)


@given(st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 3), max_size=20))
def test_distinct_keys_are_those_of_numpy(keys: list[int]) -> None:
    found = segments.distinct(np.array(keys, np.int64))
    assert found.tolist() == np.unique(np.array(keys, np.int64)).tolist()
