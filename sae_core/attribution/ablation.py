"""What features at positions really do to the target: one pass per node, with it taken out."""

from collections.abc import Sequence

import numpy as np
import scipy  # its parts are imported when they are first used: stats takes a second
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from sae_core.attribution.nodes import HookedSAE, Nodes, Target
from sae_core.models import LanguageModel

ABLATION_TOKENS = 1024
"""Tokens of one batch of passes."""


def rows_per_pass(tokens: int) -> int:
    """Return how many nodes of a text of that many tokens `ablate` takes out in one batch, each in a row."""
    return max(1, ABLATION_TOKENS // tokens)


@torch.no_grad()
def ablate(
    model: LanguageModel,
    saes: Sequence[HookedSAE],
    token_ids: Int[Tensor, " position"],
    target: Target,
    nodes: Nodes,
) -> Float64[np.ndarray, " node"]:
    """Return the exact change of the target when each node alone is ablated: y → y − f_i W_dec_i at its position.

    Error terms stay, and later layers compute as they do. Where a node adds to the target, its change is negative.
    """
    rows = rows_per_pass(len(token_ids))
    changes = [
        _changes(model, saes, token_ids, target, nodes[start : start + rows]) for start in range(0, len(nodes), rows)
    ]
    return np.concatenate([np.zeros(0), *changes])


def _changes(
    model: LanguageModel, saes: Sequence[HookedSAE], token_ids: Int[Tensor, " position"], target: Target, nodes: Nodes
) -> Float64[np.ndarray, " node"]:
    def without(own: Sequence[int], y: Tensor) -> Tensor:
        y = y.clone()
        for row in own:
            sae = saes[nodes.saes[row]].sae
            strength = float(nodes.activations[row] * nodes.scales[row])
            y[row, nodes.positions[row]] -= strength * sae.W_dec[nodes.features[row]]
        return y

    by_hook = {
        hook: [row for row in range(len(nodes)) if saes[nodes.saes[row]].writes == hook]
        for hook in {saes[number].writes for number in nodes.saes}
    }
    writes = {hook: lambda y, own=own: without(own, y) for hook, own in by_hook.items()}
    # The last row is the model itself: in one batch both have the same rounding.
    values = target.of(model.last_logits(token_ids.expand(len(nodes) + 1, -1), writes)).double().cpu().numpy()
    changes: Float64[np.ndarray, " node"] = values[:-1] - values[-1]
    return changes


def rank_correlation(attributions: Float64[np.ndarray, " node"], changes: Float64[np.ndarray, " node"]) -> float | None:
    """Return Spearman's correlation of estimates with what ablation takes away (−changes); None if it has none."""
    if len(changes) < 3 or np.ptp(attributions) == 0 or np.ptp(changes) == 0:
        return None
    return float(scipy.stats.spearmanr(attributions, -changes).statistic)
