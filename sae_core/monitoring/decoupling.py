"""How often a TopK's feature differs where it is computed alone, above a threshold, instead of among all others."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.monitoring.monitor import FeatureDetector
from sae_core.saes import SAE


@dataclass(frozen=True)
class Decoupling:
    """Activations of a monitor's features, decoupled and exact, token by token."""

    tokens: int
    features: int
    both: int
    """Pairs of a token and a feature that is active either way."""
    exact_only: int
    decoupled_only: int

    @property
    def differing(self) -> float:
        """Share of the pairs active in one way or both in which it is one only."""
        one = self.exact_only + self.decoupled_only
        return one / max(self.both + one, 1)


@torch.no_grad()
def measure_decoupling(detector: FeatureDetector, sae: SAE, x: Float[Tensor, "token d_in"]) -> Decoupling:
    """Compare a detector's features with those of the whole SAE on the same tokens.

    Args:
        detector: of features of `sae`.
        sae: the whole SAE, in its inference form.
        x: activations at the hook point.

    Raises:
        MonitorError: the SAE is another one.
    """
    alone, whole = ((one.channels(x) > 0).cpu().numpy() for one in (detector, detector.attached_to(sae)))
    counts = [int(np.count_nonzero(active)) for active in (alone & whole, whole & ~alone, alone & ~whole)]
    return Decoupling(len(x), len(detector.features), *counts)
