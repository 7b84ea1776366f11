"""The nearest directions, against a table of all cosines in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.statistics import nearest
from sae_core.statistics.nearest import nearest_of_both, nearest_others, unit_rows
from tests.core.statistics.test_decoders import LargestTensor

PRECISIONS = [torch.float32, torch.bfloat16]


def directions(n: int, d: int, seed: int, *, spread: float | None = None) -> Tensor:
    """Rows at random, or around a few centres."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator)
    if spread is None:
        return unit_rows(rows)
    centres = torch.randn(7, d, generator=generator)
    return unit_rows(centres[torch.randint(7, (n,), generator=generator)] + spread * rows)


def by_definition(a: Tensor, b: Tensor, k: int, *, itself: bool = False) -> np.ndarray:
    table = (a.double() @ b.double().T).numpy()
    if itself:
        np.fill_diagonal(table, -np.inf)
    return np.argsort(-table, axis=1, kind="stable")[:, :k]


def cosines_of(a: Tensor, b: Tensor, ids: np.ndarray) -> np.ndarray:
    return (a[:, None].double() * b[torch.from_numpy(ids.astype(np.int64))].double()).sum(dim=2).numpy()


@pytest.fixture(params=PRECISIONS, ids=str)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    monkeypatch.setattr(nearest, "_faster_precision", lambda a, b: request.param)
    return request.param


@pytest.mark.parametrize("spread", [None, 0.3, 0.02])
@pytest.mark.parametrize(("n", "d"), [(1000, 24), (700, 128)])
def test_the_nearest_are_those_of_the_definition(precision: torch.dtype, n: int, d: int, spread: float | None) -> None:
    a, b = directions(n, d, 1, spread=spread), directions(n + 45, d, 2, spread=spread)
    ids, cosine = nearest_others(a, 10)
    expected = by_definition(a, a, 10, itself=True)
    # What float32 cannot tell apart may be in either order.
    np.testing.assert_allclose(cosine, cosines_of(a, a, expected), atol=3e-7)
    np.testing.assert_allclose(cosine, cosines_of(a, a, ids), atol=3e-7)
    assert (ids == expected).mean() > 0.95
    in_b, in_a = nearest_of_both(a, b)
    for found, own, others in ((in_b, a, b), (in_a, b, a)):
        best = by_definition(own, others, 1)
        np.testing.assert_allclose(cosines_of(own, others, found[:, None]), cosines_of(own, others, best), atol=3e-7)
        assert (found == best[:, 0]).mean() > 0.95


def test_equal_directions_are_told_by_number(precision: torch.dtype) -> None:
    a = directions(1500, 16, 3)
    a[:400] = 0  # more than are looked at one by one
    a[600:1000] = a[600]
    a[1200] = a[1201] = a[5 + 1000]
    ids, cosine = nearest_others(a, 3)
    assert ids[[0, 7, 399]].tolist() == [[1, 2, 3], [0, 1, 2], [0, 1, 2]]
    assert ids[[600, 601, 999]].tolist() == [[601, 602, 603], [600, 602, 603], [600, 601, 602]]
    assert ids[1005, :2].tolist() == [1200, 1201]
    np.testing.assert_allclose(cosine[600], 1, atol=1e-6)
    assert not cosine[0].any()
    in_a, back = nearest_of_both(a[[1201, 601, 0]], a)
    assert in_a.tolist() == [1005, 600, 0]
    assert back[[1005, 1200, 600, 999]].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_others_than_asked_for(precision: torch.dtype, n: int) -> None:
    ids, cosine = nearest_others(directions(n, 8, 4), 10)
    assert (ids >= 0).sum(axis=1).tolist() == [n - 1] * n
    assert not cosine[ids < 0].any()


def test_rounding_alone_would_give_other_neighbours() -> None:
    """So that the tests above fail where candidates are not looked at again."""
    a = directions(1000, 24, 1)
    assert (by_definition(a.bfloat16(), a.bfloat16(), 10) != by_definition(a, a, 10)).any()


def test_the_table_of_pairs_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "ROWS", 16)
    a, b = directions(1000, 24, 5), directions(900, 24, 6)
    with LargestTensor() as largest:
        nearest_others(a, 10)
        nearest_of_both(a, b)
    assert largest.elements <= -(-1000 // 16) * 900


def test_progress_ends_at_the_number_of_rows() -> None:
    told: list[tuple[int, int]] = []
    nearest_others(directions(600, 8, 7), 3, lambda done, total, metrics=None, /: told.append((done, total)))
    assert told == [(256, 600), (512, 600), (600, 600)]
