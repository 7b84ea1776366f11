"""Matryoshka BatchTopK: each prefix of the dictionary reconstructs (Bussmann et al. 2025, arXiv:2503.17547)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core import kernels
from sae_core.errors import SAEError
from sae_core.kernels import Selection
from sae_core.parallel import Grid
from sae_core.saes.batchtopk import BatchTopK
from sae_core.saes.topk import TopKConfig


@dataclass(frozen=True, kw_only=True)
class MatryoshkaConfig(TopKConfig):
    """Config of Matryoshka BatchTopK."""

    prefixes: tuple[float, ...] = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
    """Shares of the dictionary that reconstruct on their own, ascending; the last is 1."""


class MatryoshkaBatchTopK(BatchTopK):
    """BatchTopK whose loss is the mean of the reconstruction losses of nested prefixes of the dictionary.

    Small prefixes have to find general features, so that larger ones cannot absorb these into special cases. The
    inference form is the `JumpReLU` of the whole dictionary.
    """

    architecture = "matryoshka"
    Config = MatryoshkaConfig
    config: MatryoshkaConfig

    def __init__(self, config: MatryoshkaConfig) -> None:
        shares = tuple(config.prefixes)
        if not shares or shares[-1] != 1 or shares[0] <= 0 or list(shares) != sorted(set(shares)):
            raise SAEError(f"prefixes are {list(shares)}. Give ascending shares of the dictionary above 0, the last 1.")
        super().__init__(config)

    def decode_prefixes(
        self, values: Float[Tensor, " active"], selection: Selection, grid: Grid
    ) -> Float[Tensor, "prefix batch d_out"]:
        """Decode by each prefix, without `b_dec`.

        A ring is a prefix without the one before. One decode gives what each ring adds for each token, as if rings
        times tokens were the batch; prefixes are the running sums over rings.
        """
        rings = len(self.config.prefixes)
        number = selection.features + grid.features.rank * self.d_sae
        total = self.d_sae * grid.features.size
        ring = torch.zeros_like(number)
        for share in self.config.prefixes[:-1]:  # numbers of the host, which a tensor of ends would have to bring over
            ring += number >= round(share * total)
        order = ring.sort(stable=True).indices
        in_rings = Selection(
            rows=(ring * selection.batch + selection.rows)[order],
            features=selection.features[order],
            batch=rings * selection.batch,
            d_sae=selection.d_sae,
        )
        decoded = kernels.decode(values[order], self.W_dec, in_rings)
        return decoded.view(rings, selection.batch, self.d_out).cumsum(dim=0)
