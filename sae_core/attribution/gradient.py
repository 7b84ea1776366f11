"""Attribution by gradients: features times the derivative of the target.

At a hook point x = Σ f_i W_dec_i + b_dec + ε. The error terms ε are constants, and gradients pass through them as
through the features, so that the model computes what it computes without SAEs. Then a feature of any of several SAEs
has the attribution f_i · (∂m/∂x · W_dec_i), and one backward pass of the plain model gives all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from sae_core.attribution.nodes import HookedSAE, Nodes, Target
from sae_core.errors import SAEError
from sae_core.models import HookPoint, LanguageModel

METHODS = ("gradient", "integrated")
"""Gradient × activation, and integrated gradients."""
GRADIENT_TOKENS = 128
"""Tokens of the interpolated copies that one backward pass takes; a single longer text is one pass."""
_BLOCK = 128
"""Tokens encoded at once: dense activations of 128 tokens and 65,536 features are 32 MB."""

Captured = dict[HookPoint, Float[Tensor, "batch position d"]]


@dataclass(frozen=True)
class Attribution:
    """Contributions to one target, in logits."""

    value: float
    """The target: a logit, or the difference of two."""
    log_probabilities: Float[Tensor, " vocab"]
    """Of the next token at the target's position."""
    nodes: Nodes
    """All active features at counted positions, strongest first."""
    features: Float64[np.ndarray, "sae position"]
    """Sum over the features of each SAE at each position."""
    errors: Float64[np.ndarray, "sae position"]
    """Contribution of what the SAE leaves out."""

    @property
    def explained(self) -> float | None:
        """Share of the features: Σ |features| / Σ (|features| + |error|) over positions; None where both are zero.

        At one position features of both signs cancel, as they do in the model; positions do not.
        """
        features, errors = np.abs(self.features).sum(), np.abs(self.errors).sum()
        return float(features / (features + errors)) if features + errors else None


def attribute(
    model: LanguageModel,
    saes: Sequence[HookedSAE],
    token_ids: Int[Tensor, " position"],
    target: Target,
    *,
    counted: Bool[np.ndarray, " position"],
    method: str = "gradient",
    steps: int = 10,
    between: Callable[[], None] = lambda: None,
) -> Attribution:
    """Attribute the target, read after the last position, to the features of the SAEs.

    `gradient` takes one forward and one backward pass for all SAEs. `integrated` averages gradients over `steps`
    points of the path on which all features of one SAE grow together from 0 to their activations, its error terms
    staying: then its attributions sum to exactly the effect of all of them, up to the steps. Each SAE has its own path.

    Args:
        token_ids: up to and with the position whose prediction is explained.
        counted: False for BOS and other special tokens: SAEs say nothing of them, and nothing is attributed there.
        between: called between passes; what it raises ends the work.

    Raises:
        ModelError: the model has no such hook point, or the text is longer than its context.
        SAEError: an SAE does not fit its hook point, or the values are not finite.
    """
    points = {point for sae in saes for point in (sae.reads, sae.writes)}
    logits, captured = forward(model, token_ids[None], points)
    value = target.of(logits)
    at = {hook: captured[hook].detach()[0] for hook in points}
    writes = list(dict.fromkeys(sae.writes for sae in saes))
    if method == "gradient":
        found = torch.autograd.grad(value.sum(), [captured[hook] for hook in writes], materialize_grads=True)
        gradients = [dict(zip(writes, found, strict=True))[sae.writes][0] for sae in saes]
    else:
        gradients = [_path_gradient(model, sae, token_ids, target, at, counted, steps, between) for sae in saes]
    parts = [
        _products(number, sae, at[sae.reads], at[sae.writes], gradient, counted)
        for number, (sae, gradient) in enumerate(zip(saes, gradients, strict=True))
    ]
    nodes = Nodes.concatenate([part[0] for part in parts]).strongest_first()
    features, errors = np.stack([part[1] for part in parts]), np.stack([part[2] for part in parts])
    if not all(map(np.isfinite, (value.item(), features.sum(), errors.sum()))):
        raise SAEError("The contributions are not finite numbers: the model or the SAE gives NaN on this text.")
    return Attribution(value.item(), logits.detach()[0].log_softmax(dim=0), nodes, features, errors)


def forward(
    model: LanguageModel, token_ids: Int[Tensor, "batch position"], points: set[HookPoint]
) -> tuple[Float[Tensor, "batch vocab"], Captured]:
    """Run the plain model, and keep the activations at `points` with their graph, in the order of the pass.

    The graph begins at the first of them: what comes before needs no gradient and no memory.
    """
    captured: Captured = {}

    def capture(hook: HookPoint, x: Tensor) -> Tensor:
        captured[hook] = x if x.requires_grad else x.detach().requires_grad_()
        return captured[hook].clone()  # whatever the model writes in place does not change what is kept

    with torch.enable_grad():
        logits = model.last_logits(token_ids, {point: partial(capture, point) for point in points})
    return logits, captured


@torch.no_grad()
def _path_gradient(
    model: LanguageModel,
    sae: HookedSAE,
    token_ids: Int[Tensor, " position"],
    target: Target,
    at: dict[HookPoint, Float[Tensor, "position d"]],
    counted: Bool[np.ndarray, " position"],
    steps: int,
    between: Callable[[], None],
) -> Float[Tensor, "position d_out"]:
    """Return ∂m/∂y averaged over the midpoints of `steps` parts of the path, on which features grow from 0."""
    x, y = at[sae.reads], at[sae.writes]
    of_features = torch.zeros_like(y)
    for rows in _blocks(counted, x.device):
        active, values = sae.sae.encode_sparse(x[rows])
        of_features[rows] = sae.scales(x[rows])[:, None] * (active.dense(values) @ sae.sae.W_dec)
    total = torch.zeros_like(y)
    shares = (torch.arange(steps, device=y.device) + 0.5) / steps
    for some in torch.split(shares, max(1, GRADIENT_TOKENS // len(token_ids))):
        between()
        path = (y - (1 - some[:, None, None]) * of_features).requires_grad_()
        with torch.enable_grad():
            write = {sae.writes: lambda _, path=path: path.clone()}
            logits = model.last_logits(token_ids.expand(len(some), -1), write)
            total += torch.autograd.grad(target.of(logits).sum(), path)[0].sum(dim=0)
    return total / steps


@torch.no_grad()
def _products(
    number: int,
    sae: HookedSAE,
    x: Float[Tensor, "position d_in"],
    y: Float[Tensor, "position d_out"],
    gradient: Float[Tensor, "position d_out"],
    counted: Bool[np.ndarray, " position"],
) -> tuple[Nodes, Float64[np.ndarray, " position"], Float64[np.ndarray, " position"]]:
    """Return the nodes of one SAE, and per position the sum over its features and the error term's contribution."""
    features, errors = (torch.zeros(len(x), dtype=torch.float64) for _ in range(2))
    parts = [_no_nodes()]
    for rows in _blocks(counted, x.device):
        active, values = sae.sae.encode_sparse(x[rows])
        scales = sae.scales(x[rows])
        products = values * active.values(scales[:, None] * (gradient[rows] @ sae.sae.W_dec.T))
        error = y[rows] - sae.sae.decode(active.dense(values), x[rows])
        at = rows.cpu()
        errors[at] = (error * gradient[rows]).sum(dim=1, dtype=torch.float64).cpu()
        features.index_add_(0, at[active.rows.cpu()], products.double().cpu())
        columns = (active.features, at[active.rows.cpu()], values, scales[active.rows], products)
        feature, position, value, scale, product = (column.cpu().numpy() for column in columns)
        parts.append(
            Nodes(
                np.full(len(feature), number),
                feature.astype(np.int64),
                position,
                *(column.astype(np.float64) for column in (value, scale, product)),
            )
        )
    return Nodes.concatenate(parts), features.numpy(), errors.numpy()


def _no_nodes() -> Nodes:
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return Nodes(whole, whole, whole, real, real, real)


def _blocks(counted: Bool[np.ndarray, " position"], device: torch.device) -> Sequence[Int64[Tensor, " row"]]:
    return torch.split(torch.from_numpy(np.flatnonzero(counted)).to(device), _BLOCK)
