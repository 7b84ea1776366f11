"""The costly parts of a training step: selection, sparse decode, sparse gradients."""

from sae_core.kernels.selection import Selection, batch_topk, topk
from sae_core.kernels.sparse import active_values, decode

__all__ = ["Selection", "active_values", "batch_topk", "decode", "topk"]
