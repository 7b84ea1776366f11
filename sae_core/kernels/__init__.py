"""The costly parts of a training step: selection, sparse decode, sparse gradients."""

from sae_core.kernels.selection import Selection, above, batch_topk, positions, topk
from sae_core.kernels.sparse import active_values, decode

__all__ = ["Selection", "above", "active_values", "batch_topk", "decode", "positions", "topk"]
