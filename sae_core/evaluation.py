"""How good an SAE is: reconstruction, sparsity, and what the model loses when it reads the reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_core.progress import Progress, silent
from sae_core.saes import SAE

if TYPE_CHECKING:
    from sae_core.activations import ActivationCache
    from sae_core.corpora import Sequences
    from sae_core.models import HookPoint, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one SAE on held-out tokens."""

    tokens: int
    """Held-out tokens behind the reconstruction metrics."""
    l0: float
    explained_variance: float
    mse: float
    cosine: float
    l2_ratio: float
    dead_fraction: float
    """Features active on none of `tokens`."""
    ce_tokens: int
    """Held-out predictions behind the metrics below."""
    ce_clean: float
    ce_sae: float
    ce_mean_ablated: float
    ce_zero_ablated: float
    ce_recovered_mean: float
    ce_recovered_zero: float
    kl: float


def evaluate(
    model: LanguageModel,
    sae: SAE,
    hook: HookPoint,
    sequences: Sequences,
    *,
    activations: ActivationCache | None = None,
    max_tokens: int = 4096,
    progress: Progress = silent,
) -> Evaluation:
    """Measure an SAE on held-out sequences."""
    raise NotImplementedError
