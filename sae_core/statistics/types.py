"""The statistics of one SAE over one corpus as arrays: the seam between `sae_core` and the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_core.statistics.decoders import NearDecoders
from sae_core.statistics.spec import BY_NAME, HEALTH_FLAGS


@dataclass(frozen=True, slots=True)
class Examples:
    """Sequences that show a feature at work, sorted by (feature, band, rank); `m` is the number of examples."""

    feature: NDArray[np.int32]
    """[m]"""
    band: NDArray[np.int8]
    """[m] 0 for the top examples; 1 to 5 for the quantile bands, 5 the strongest fifth."""
    rank: NDArray[np.int16]
    """[m] within the band, from 0: strongest first in band 0, in the order drawn in the others."""
    sequence: NDArray[np.int32]
    """[m]"""
    position: NDArray[np.int16]
    """[m] the example's token within the sequence: the strongest for band 0, the drawn one for the others."""
    activation: NDArray[np.float32]
    """[m] at that position."""
    indptr: NDArray[np.int64]
    """[m + 1] bounds of each example's entries in `positions` and `values`."""
    positions: NDArray[np.int16]
    """[indptr[-1]] every counted position of the sequence where the feature is active, ascending."""
    values: NDArray[np.float32]
    """[indptr[-1]] the activations there."""

    def __len__(self) -> int:
        return len(self.feature)


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """All statistics of the features of one SAE over one corpus; `statistics["density"]` is the array of that name."""

    tokens: int
    """Counted tokens."""
    arrays: Mapping[str, NDArray[Any]]
    """By the names that `spec` declares; one row per feature. `health` is not among them."""
    health: Mapping[str, NDArray[np.bool_]]
    """[n] per flag of `spec.HEALTH_FLAGS`."""
    examples: Examples
    topic_names: list[str]
    """Topics of the corpus, sorted; the array `topics` refers to them by place."""
    provenance: dict[str, Any]
    """JSON: seeds, hashes of SAE, sequences and tokenizer, versions, what was left out of counting, thresholds."""
    neighbours: NearDecoders
    """As many as a map needs; the array `near` has the first of them."""

    def __post_init__(self) -> None:
        """Hold the arrays to the declarations.

        Raises:
            ValueError: a declared statistic is missing, or a computed one is not declared.
        """
        computed: set[str] = {"health", *self.arrays, *self.health}
        declared: set[str] = {*BY_NAME, *HEALTH_FLAGS}
        if computed != declared:
            names = ", ".join(sorted(computed ^ declared))
            raise ValueError(f"computed and declared in sae_core/statistics/spec.py are not the same: {names}")

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]
