import threading

import numpy as np
import pytest
import torch

from sae_core.statistics import map as map_module
from sae_core.statistics.decoders import near_decoders
from sae_core.statistics.map import MIN_FEATURES, NEIGHBOURS, NEIGHBOURS_SHARE, feature_map

GROUPS, SIZE, D_IN = 6, 40, 32


def grouped() -> torch.Tensor:
    """Directions around six centres, group by group."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(GROUPS, 1, D_IN, generator=generator)
    return (centres + 0.3 * torch.randn(GROUPS, SIZE, D_IN, generator=generator)).flatten(0, 1)


@pytest.mark.parametrize("lengths", [torch.ones(1), torch.logspace(-2, 2, GROUPS * SIZE)[:, None]])
def test_near_directions_lie_near_each_other(lengths: torch.Tensor) -> None:
    points = feature_map(grouped() * lengths)
    assert points.shape == (GROUPS * SIZE, 2)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argsort(axis=1)[:, :5]
    group = np.arange(GROUPS * SIZE) // SIZE
    assert (group[nearest] == group[:, None]).mean() > 0.99


def test_equal_seeds_give_equal_maps() -> None:
    W_dec = grouped()
    assert (feature_map(W_dec, seed=3) == feature_map(W_dec, seed=3)).all()
    assert (feature_map(W_dec, seed=3) != feature_map(W_dec, seed=4)).any()


def test_few_features_get_finite_points() -> None:
    for features in (1, 2, 3, MIN_FEATURES - 1):
        points = feature_map(torch.randn(features, 8))
        assert points.shape == (features, 2)
        assert np.isfinite(points).all()


def test_zero_directions_get_finite_points() -> None:
    W_dec = grouped()
    W_dec[:3] = 0
    assert np.isfinite(feature_map(W_dec)).all()


def test_machine_code_of_all_that_umap_compiles_is_kept_on_disk() -> None:
    from numba.core.dispatcher import Dispatcher
    from umap import layouts, umap_

    feature_map(grouped())
    own = [f for module in (umap_, layouts) for f in vars(module).values() if isinstance(f, Dispatcher)]
    compiled = [f for f in own if f.signatures and f.py_func.__module__ in (umap_.__name__, layouts.__name__)]
    assert {"smooth_knn_dist", "compute_membership_strengths"} <= {f.py_func.__name__ for f in compiled}
    assert all(f.stats.cache_path for f in compiled)


def test_progress_rises_to_the_number_of_features_and_what_it_raises_stops_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(map_module, "REPORT_SECONDS", 0)
    told: list[tuple[int, int]] = []
    feature_map(grouped(), progress=lambda done, total, metrics=None, /: told.append((done, total)))
    n = GROUPS * SIZE
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (n, n)
    epochs = [done for done, _ in told if done > NEIGHBOURS_SHARE * n]
    assert len(epochs) > 50

    def stop(done: int, total: int, metrics: object = None, /) -> None:
        if done > NEIGHBOURS_SHARE * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_map(grouped(), progress=stop)
    elsewhere = threading.Thread(target=feature_map, args=(grouped(),), daemon=True)
    elsewhere.start()
    elsewhere.join(timeout=60)
    assert not elsewhere.is_alive(), "it waits for the lock of the progress bar that was stopped"


def test_known_neighbours_give_the_same_map() -> None:
    W_dec = grouped()
    known = near_decoders(W_dec, NEIGHBOURS - 1)
    assert (feature_map(W_dec, known) == feature_map(W_dec)).all()
