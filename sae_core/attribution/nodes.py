"""What attribution speaks of: SAEs at their hook points, the output token, and features at positions."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from sae_core.models import HookPoint
from sae_core.saes import SAE


@dataclass(frozen=True)
class HookedSAE:
    """An SAE, in the form for inference, at the hook points that it reads and writes.

    A transcoder writes at another point than it reads. Its features act there; how they get their activations, through
    the input, is the model's own computation.
    """

    sae: SAE
    reads: HookPoint
    writes: HookPoint

    def scales(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, " token"]:
        """Return the factor on decoder rows at each token: 1, unless the SAE normalises tokens.

        A token's shift and scale are constants here, as they are when one of its features is ablated.
        """
        return self.sae.scale_back(x.new_ones(len(x)), x)


@dataclass(frozen=True)
class Target:
    """The logit of one token after the last position, minus that of a rival if there is one."""

    token: int
    rival: int | None = None

    def of(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, " batch"]:
        """Return the target's value in each row."""
        return logits[:, self.token] if self.rival is None else logits[:, self.token] - logits[:, self.rival]


@dataclass(frozen=True)
class Nodes:
    """Active features at positions, as columns of equal length."""

    saes: Int64[np.ndarray, " node"]
    """Number of the SAE in the order in which they were given."""
    features: Int64[np.ndarray, " node"]
    positions: Int64[np.ndarray, " node"]
    activations: Float64[np.ndarray, " node"]
    scales: Float64[np.ndarray, " node"]
    """Factors on decoder rows; see `HookedSAE.scales`."""
    attributions: Float64[np.ndarray, " node"]
    """Estimates of what the feature there adds to the target."""

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, chosen: "slice | Int64[np.ndarray, ' chosen']") -> "Nodes":
        return Nodes(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def strongest_first(self) -> "Nodes":
        """Return the nodes by the size of their attribution, largest first."""
        return self[np.argsort(-np.abs(self.attributions), kind="stable")]

    @classmethod
    def concatenate(cls, parts: "list[Nodes]") -> "Nodes":
        """Return the nodes of several parts, at least one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))
