"""AuxK, the loss that revives dead features (Gao et al. 2024, arXiv:2406.04093, appendix A.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core import kernels
from sae_core.saes.base import SAE
from sae_core.saes.batch import Batch


def auxk(sae: SAE, batch: Batch, error: Float[Tensor, "batch d_out"]) -> Float[Tensor, ""]:
    """Return ‖e − ê‖² / ‖e‖², where dead features reconstruct the error of the others; 0 if none is dead.

    Args:
        sae: the SAE.
        batch: lists its dead features.
        error: e, target minus reconstruction, detached. `b_dec` is subtracted already, so ê is decoded without it,
            from the k_aux = min(d_out / 2, dead) largest dead pre-activations of each token.
    """
    dead, grid = batch.dead, batch.grid
    count = len(dead)
    if grid.features.size > 1:
        count = int(grid.features.all_reduce(torch.tensor(count, device=error.device)))
    if count == 0:
        return error.new_zeros(())
    centre = sae.centre()
    x = batch.x if centre is None else batch.x - centre.detach()
    pre = torch.addmm(sae.b_enc[dead], x, sae.W_enc.t()[dead].t()).to(error.dtype)
    selection = kernels.topk(pre.detach(), min(sae.d_out // 2, count), grid.features)
    f = selection.dense(selection.values(pre).relu())
    decoded = grid.features.all_reduce((f @ sae.W_dec[dead]).to(error.dtype))
    return grid.tokens.all_reduce((error - decoded).square().sum()) / grid.tokens.all_reduce(error.square().sum())
