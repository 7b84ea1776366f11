"""The readout: how a model turns its last residual stream into logits, checked against the model's own logits.

A name does not tell which norm is the final one, or whether there is one. So one forward pass shows which modules the
model calls between its last block and its logits: a norm in most, a projection in some, neither in a few. They are
used only if they reproduce the logits of that pass.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_core.errors import ModelError

TEXT = "The capital of France is Paris, and 2 + 2 = 4.\n"
"""The text that a readout is checked on."""


class ReadoutError(ModelError):
    """The model's logits cannot be traced to its residual stream; the message is the reason, as a clause."""


@dataclass(frozen=True)
class OutputDirections:
    """What a direction in the residual stream, such as a decoder row, adds to the logit of each token.

    `direction @ by_token` is its direct effect on the logits, up to a positive factor that all tokens share: through
    the final norm's gain (and centring), the projection and the unembedding. It is centred over the tokens, because the
    softmax ignores a constant. Later layers, the norm's division and a soft cap are not in it.
    """

    by_token: Float[Tensor, "d_model token"]
    """Float32, on the model's device."""
    token_ids: Int[Tensor, " token"]
    """Ascending. Rows of the unembedding that the tokenizer has no token for are left out, also of the centring."""


@dataclass(frozen=True)
class Readout:
    """From the residual stream after the last block to the logits."""

    before: tuple[nn.Module, ...]
    """Modules called before the unembedding, in order: final norm, projection, or none."""
    unembedding: nn.Linear
    multiplier: float | None
    """Of the logits; None = 1."""
    softcap: float | None
    """Largest logit c: c · tanh(logit / c); None = none."""

    @torch.no_grad()
    def logits(self, residual: Float[Tensor, "... d_model"]) -> Float[Tensor, "... row"]:
        """Return the logits of every row of the unembedding, float32."""
        logits: Tensor = self.unembedding(_through(self.before, residual)).float()
        if self.multiplier is not None:
            logits = logits * self.multiplier
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @torch.no_grad()
    def directions(self, d_model: int, token_ids: Int[Tensor, " token"]) -> OutputDirections:
        """Return the output directions of these tokens."""
        by_token = self._gain(d_model) @ self.unembedding.weight[token_ids].float().T
        by_token -= by_token.mean(dim=1, keepdim=True)
        return OutputDirections(by_token, token_ids)

    def _gain(self, d_model: int) -> Float[Tensor, "d_model d_head"]:
        """Linear part of the modules before the unembedding: what each axis becomes, at a root mean square of 1.

        Measured rather than read from weights, because Gemma's norms multiply by 1 + weight.
        """
        parts = tuple(copy.deepcopy(module).float() for module in self.before)
        axes = torch.eye(d_model, device=self.unembedding.weight.device) * d_model**0.5
        gain: Tensor = (_through(parts, axes) - _through(parts, -axes)) / (2 * d_model**0.5)
        return gain

    @torch.no_grad()
    def explain_mismatch(
        self, residual: Float[Tensor, "position d_model"], own: Float[Tensor, "position row"]
    ) -> str | None:
        """Return why this is not the readout that gave the logits `own`; None if it is.

        The logits have to be the same; and what is unembedded has to be linear in the residual stream, up to the norm's
        division.
        """
        tolerance = torch.finfo(residual.dtype).eps ** 0.5
        difference = (self.logits(residual) - own).abs().max() / own.std()
        if not difference <= tolerance:
            return f"what the model calls after its last block gives other logits (off by {difference:.2g} deviations)"
        moved = _through(self.before, residual) - _through(self.before, torch.zeros_like(residual))
        linear = residual.float() @ self._gain(residual.shape[-1])
        if not (1 - torch.cosine_similarity(moved.float(), linear, dim=-1)).max() <= tolerance:
            return "the model's logits are not linear in its residual stream, up to the division by a norm"
        return None


@torch.no_grad()
def find_readout(
    forward: Callable[[], Any],
    root: nn.Module,
    last_block: nn.Module,
    unembedding: nn.Linear,
    *,
    multiplier: float | None,
    softcap: float | None,
) -> Readout:
    """Return the readout of the model `root`, whose `forward` runs `TEXT` and returns an object with `logits`.

    Raises:
        ReadoutError: no readout reproduces these logits.
    """
    with _calls_after(last_block, root) as (called, residuals):
        own = forward().logits.float()
    if not called or called[-1] is not unembedding or len(residuals) != 1:
        raise ReadoutError("the unembedding is not the last module that the model calls after its last block")
    readout = Readout(tuple(called[:-1]), unembedding, multiplier, softcap)
    try:
        mismatch = readout.explain_mismatch(residuals[0].reshape(-1, residuals[0].shape[-1]), own.flatten(0, -2))
    except (RuntimeError, TypeError, AttributeError) as error:  # a module that takes or gives more than one tensor
        raise ReadoutError(
            f"what the model calls after its last block cannot be called alone ({type(error).__name__})"
        ) from error
    if mismatch:
        raise ReadoutError(mismatch)
    return readout


@contextmanager
def _calls_after(block: nn.Module, root: nn.Module) -> Iterator[tuple[list[nn.Module], list[Tensor]]]:
    """Record the modules of `root` that are called after `block`, without those inside them, and the block's output."""
    called: list[nn.Module] = []
    inside: list[nn.Module] = []
    residuals: list[Tensor] = []

    def enter(module: nn.Module, _: Any) -> None:
        if residuals:
            if not inside:
                called.append(module)
            inside.append(module)

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        if inside and inside[-1] is module:
            inside.pop()
        if module is block:
            residuals.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [module.register_forward_pre_hook(enter) for module in root.modules()]
    handles += [module.register_forward_hook(leave) for module in root.modules()]
    try:
        yield called, residuals
    finally:
        for handle in handles:
            handle.remove()


def _through(modules: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    for module in modules:
        x = module(x)
    return x
