"""How many features of an SAE come back in another, such as one of another seed.

A feature has a partner by direction if one of the other SAE has a cosine of at least `PARTNER` to it, and by activity
if one has such a correlation. Paulo and Belrose (2025, arXiv:2501.16615) take the same cosine between SAEs of several
seeds, of pairs that they assign one to one; here each feature's best partner counts, also if it is another's too.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy  # its parts are imported when they are first used: stats takes half a second
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_core.statistics.nearest import nearest_of_both, unit_rows
from sae_core.statistics.spec import PARTNER

CONTROLLED = 4096
"""Most features that a random dictionary is searched for, evenly drawn."""
SEED = 0


@dataclass(frozen=True)
class PartnerShare:
    """Share of some features that have a partner."""

    features: int
    found: int
    interval: tuple[float, float]
    """Of the share: Wilson's, 95 %, as if features were drawn. It says nothing about further seeds."""

    @classmethod
    def of(cls, similarity: NDArray[np.float32]) -> Self:
        """Of [n] similarities of the features' best partners."""
        n, found = len(similarity), int((similarity >= PARTNER).sum())
        if not n:
            return cls(0, 0, (0.0, 1.0))
        ends = scipy.stats.binomtest(found, n).proportion_ci(method="wilson")
        return cls(n, found, (float(ends.low), float(ends.high)))


@torch.no_grad()
def chance_cosines(W_dec: Float[Tensor, "n d"], W_dec_other: Float[Tensor, "m d"]) -> NDArray[np.float32]:
    """Return the highest cosine of features, `CONTROLLED` at most, in a random dictionary as large as the other SAE.

    Its directions are normal, with the mean and covariance of the other's decoder rows at length 1: harder to beat than
    directions drawn evenly from the sphere, because both SAEs write more in some directions than in others.
    """
    others = unit_rows(W_dec_other.cpu())
    generator = torch.Generator().manual_seed(SEED)
    mean = others.mean(dim=0)
    scatter = (others.T @ others / len(others) - torch.outer(mean, mean)).double()
    values, vectors = torch.linalg.eigh(scatter)
    spread = (vectors * values.clamp_min(0).sqrt()).T.float()
    random = torch.cat(
        [
            torch.randn(len(rows), len(mean), generator=generator) @ spread + mean
            for rows in torch.split(others, CONTROLLED)
        ]
    )
    chosen = torch.linspace(0, len(W_dec) - 1, min(CONTROLLED, len(W_dec))).round().long()
    own, random = unit_rows(W_dec.cpu()[chosen]), unit_rows(random)
    best, _ = nearest_of_both(own, random)
    found: NDArray[np.float32] = (own * random[torch.from_numpy(best.astype(np.int64))]).sum(dim=1).numpy()
    return found.clip(-1, 1)
