"""Edges between features of SAEs at different hook points, pruned to those that carry most influence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from sae_core.attribution.gradient import Captured, forward
from sae_core.attribution.nodes import HookedSAE, Nodes
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE
from sae_core.saes.normalisation import token_moments


@dataclass(frozen=True)
class Edges:
    """Edges between nodes, as columns, the strongest first; numbers are places in the nodes that were given."""

    sources: Int64[np.ndarray, " edge"]
    targets: Int64[np.ndarray, " edge"]
    weights: Float64[np.ndarray, " edge"]
    """In units of the target: what flows from the source through the downstream feature."""
    kept: float
    """Share of the sum of all weights' sizes that these edges have; 0 where there is none."""


def edges(
    model: LanguageModel,
    saes: Sequence[HookedSAE],
    token_ids: Int[Tensor, " position"],
    nodes: Nodes,
    *,
    keep: float = 0.8,
    most: int = 200,
) -> Edges:
    """Return the edges between `nodes`, which should be few: every downstream node takes a backward pass.

    An edge's weight is f_i · (∂pre_j/∂y · W_dec_i), the attribution of the upstream feature to the pre-activation of
    the downstream one, times ∂m/∂f_j, which the downstream node's attribution holds. Gradients pass through all that
    lies between, other SAEs' points too, so weights of paths that share a part overlap.

    Args:
        keep: the strongest edges are kept until they have this share of all influence, the sum of weights' sizes.
        most: at most so many are kept.
    """
    points = {point for sae in saes for point in (sae.reads, sae.writes)}
    _, captured = forward(model, token_ids[None], points)
    order = {hook: place for place, hook in enumerate(captured)}
    weights = np.zeros((len(nodes), len(nodes)))
    for node in range(len(nodes)):
        reads = saes[nodes.saes[node]].reads
        above = [own for own in range(len(nodes)) if order[saes[nodes.saes[own]].writes] < order[reads]]
        if above:
            pre = _pre_activation(saes[nodes.saes[node]].sae, captured[reads][0, nodes.positions[node]], nodes, node)
            gradient = nodes.attributions[node] / nodes.activations[node]
            weights[above, node] = gradient * _upstream(pre, captured, saes, nodes, above)
    return _pruned(weights, keep, most)


def _pre_activation(sae: SAE, x: Float[Tensor, " d_in"], nodes: Nodes, node: int) -> Float[Tensor, ""]:
    with torch.enable_grad():
        rows = x[None]
        pre = sae.pre_activations(token_moments(sae.config.normalize_activations, rows).apply(rows))
        return pre[0, nodes.features[node]]


def _upstream(
    pre: Float[Tensor, ""], captured: Captured, saes: Sequence[HookedSAE], nodes: Nodes, above: Sequence[int]
) -> Float64[np.ndarray, " above"]:
    """Return f_i · (∂pre/∂y · W_dec_i) of the nodes `above`."""
    hooks: list[HookPoint] = list({saes[nodes.saes[own]].writes for own in above})
    found = torch.autograd.grad(pre, [captured[hook] for hook in hooks], retain_graph=True, materialize_grads=True)
    gradients = dict(zip(hooks, found, strict=True))
    values = []
    for own in above:
        hooked = saes[nodes.saes[own]]
        along = gradients[hooked.writes][0, nodes.positions[own]] @ hooked.sae.W_dec[nodes.features[own]]
        values.append(along.item() * nodes.activations[own] * nodes.scales[own])
    return np.array(values)


def _pruned(weights: Float64[np.ndarray, "node node"], keep: float, most: int) -> Edges:
    sources, targets = np.nonzero(weights)
    found = weights[sources, targets]
    order = np.argsort(-np.abs(found), kind="stable")
    influence = np.abs(found[order]).cumsum()
    total = influence[-1] if len(influence) else 0.0
    order = order[: min(most, int((influence < keep * total).sum()) + 1)]
    kept = float(influence[len(order) - 1] / total) if len(order) else 0.0
    return Edges(sources[order], targets[order], found[order], kept)
