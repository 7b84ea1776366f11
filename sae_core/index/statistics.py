"""All statistics of all features, in one pass over an activation store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from sae_core.index.store import ActivationStore
from sae_core.index.types import FeatureStatistics
from sae_core.progress import Progress, silent

if TYPE_CHECKING:
    from sae_core.corpora import Sequences
    from sae_core.saes.base import SAE


def compute_statistics(
    store: ActivationStore,
    sequences: Sequences,
    sae: SAE,
    output_directions: Float[Tensor, "d_model vocab"] | None,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> FeatureStatistics:
    """Compute every statistic of FIELD's list exactly; progress is in features."""
    raise NotImplementedError
