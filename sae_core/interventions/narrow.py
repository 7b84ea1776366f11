"""The part of an SAE that an intervention reads: encoding one feature of 65,536 must not cost as much as all."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from sae_core.saes import SAE, TopK


@torch.no_grad()
def narrowed(sae: SAE, features: Sequence[int]) -> tuple[SAE, dict[int, int]]:
    """Return an SAE that gives these features the same activations, and the row of each feature in it.

    A TopK comes back as it is, because all its features compete for k places. `sae` is in its inference form.
    """
    if isinstance(sae, TopK):
        return sae, {feature: feature for feature in features}
    rows = list(features)
    small = type(sae)(replace(sae.config, d_sae=len(rows), skip=False)).to(sae.W_enc).requires_grad_(False)
    for name, parameter in small.named_parameters():
        whole = sae.get_parameter(name)
        parameter.copy_(whole if name in sae.replicated else whole.t()[rows].t() if name == "W_enc" else whole[rows])
    return small, {feature: row for row, feature in enumerate(rows)}
