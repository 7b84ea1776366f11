"""A map of an SAE's features: features of near decoder directions lie near each other."""

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_core.progress import Progress, rescaled, silent
from sae_core.statistics.decoders import NearDecoders, near_decoders
from sae_core.statistics.nearest import unit_rows

NEIGHBOURS = 15
"""UMAP's own default, counting the feature itself."""
NEIGHBOURS_SHARE = 0.4
"""Progress when all neighbours are found and UMAP begins."""
REPORT_SECONDS = 0.5
"""Least seconds between two reports of UMAP's epochs."""
MIN_FEATURES = 4 * NEIGHBOURS
"""Fewer features have no meaningful neighbourhoods: they are laid out by their two principal components."""


class _Epochs:
    """The file that UMAP's progress bar is written to."""

    def __init__(self, progress: Progress, lock: Any) -> None:
        self._progress, self._lock = progress, lock

    def write(self, text: str) -> None:
        """Read `done/total` epochs; an exception of the progress stops UMAP.

        tqdm holds its lock, which all bars of the process share, while it writes, and keeps it if that fails.
        """
        done, _, total = text.strip().partition("/")
        if done.isdigit() and total.isdigit():
            try:
                self._progress(int(done), int(total))
            except BaseException:
                self._lock.release()
                raise

    def flush(self) -> None:
        """Do nothing: what is written has been reported."""


def feature_map(
    W_dec: Float[Tensor, "d_sae d_in"],
    neighbours: NearDecoders | None = None,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Float[NDArray[np.float32], "d_sae 2"]:
    """Lay the features out in the plane by UMAP (McInnes et al. 2018, arXiv:1802.03426) over decoder cosines.

    The neighbours are exact, those of `near_decoders`; UMAP's own search would be approximate. The axes mean nothing,
    and neither does the distance between groups that are far apart. Equal seeds give equal maps on one machine.

    Args:
        W_dec: decoder directions.
        neighbours: the `NEIGHBOURS` − 1 nearest of each, where they are known.
        seed: of the layout.
        progress: in features; what it raises stops the work.
    """
    n = len(W_dec)
    if n < MIN_FEATURES:
        return _principal_components(W_dec)
    from umap import UMAP, layouts, umap_  # compiled on import, which takes seconds

    _keep_compiled(umap_, layouts)
    share = NEIGHBOURS_SHARE if neighbours is None else 0
    near = neighbours or near_decoders(W_dec, NEIGHBOURS - 1, rescaled(progress, n, 0, share))
    unit = unit_rows(W_dec.cpu())
    itself = np.arange(n, dtype=np.int32)[:, None]
    ids = np.hstack([itself, near.ids])
    distances = np.hstack([np.zeros_like(itself, np.float32), 1 - near.cosine])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with given neighbours, UMAP cannot place further points: none come
        layout = UMAP(
            n_neighbors=NEIGHBOURS,
            metric="cosine",
            precomputed_knn=(ids, distances),
            force_approximation_algorithm=True,  # else a small map computes its own distances
            random_state=seed,
            n_jobs=1,
            tqdm_kwds={
                "disable": False,
                "file": _Epochs(rescaled(progress, n, share, 1), layouts.tqdm.get_lock()),
                "bar_format": "{n}/{total}",
                "mininterval": REPORT_SECONDS,
                "miniters": 1,
                "leave": False,  # else closing the bar writes once more, where tqdm does release its lock
            },
        )
        points: NDArray[np.float32] = layout.fit_transform(unit.numpy()).astype(np.float32)
    progress(n, n)
    return points


def _keep_compiled(*modules: ModuleType) -> None:
    """Let numba keep the machine code of the modules' functions on disk, where `NUMBA_CACHE_DIR` says or beside them.

    UMAP asks for that for some functions only. The others take 6.7 of the 11.3 CPU-seconds that a map of 4,096 features
    takes in a new process.
    """
    from numba.core.dispatcher import Dispatcher

    for module in modules:
        for function in vars(module).values():
            if isinstance(function, Dispatcher) and function.py_func.__module__ == module.__name__:
                function.enable_caching()


def _principal_components(W_dec: Float[Tensor, "d_sae d_in"]) -> NDArray[np.float32]:
    unit = unit_rows(W_dec.cpu())
    left, values, _ = torch.linalg.svd(unit - unit.mean(dim=0), full_matrices=False)
    points = torch.zeros(len(unit), 2)
    points[:, : len(values)] = (left * values)[:, :2]
    return points.numpy()
