"""The layers above a hook point, run from activations that are known already."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from interp_engine.hooks import HookManager
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from sae_core.models import HookPoint, LanguageModel

TOLERANCE = 1e-3
"""Logits that differ by more than this from those of the whole pass are not trusted: the whole model runs then."""

Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values of one text, by layer."""


class UpperLayers:
    """Runs a model from activations at a hook point, without the blocks below it.

    Blocks that end at or before a point of the residual stream are replaced by the identity while a pass runs; what
    they would have given is put in place at the hook. At other points, and in models where this does not give the
    logits of the whole pass, all blocks run, which is slower and as exact.
    """

    def __init__(self, model: LanguageModel, hook: HookPoint) -> None:
        """Raises `ModelError` if the model has no such hook point."""
        self.model = model
        self.hook = hook
        self._module, self._side = model.resolve(hook)
        self._head: nn.Module = model.hf_model.get_output_embeddings()
        self.skipped = {"resid_post": hook.layer + 1, "resid_pre": hook.layer}.get(hook.name, 0)
        """Blocks that do not run."""
        self._blocks = [model.resolve(HookPoint("resid_post", layer))[0] for layer in range(self.skipped)]
        self._is_tuple: list[bool] = []
        if self.skipped and not self._equals_whole_pass():
            self.skipped, self._blocks = 0, []

    def _equals_whole_pass(self) -> bool:
        token_ids = torch.arange(3, 11)[None] % self.model.vocab_size
        with ExitStack() as hooks:
            for block in self._blocks:
                hooks.enter_context(_noting(block, self._is_tuple))
            whole = self.model.logits(token_ids)
        if len(self._is_tuple) != len(self._blocks):
            return False
        activations = self.model.activations(token_ids, self.hook)
        try:
            upper = self.logits(token_ids, activations)
            prefix, _ = self.begin(token_ids, activations)
            later = self.logits(token_ids[:, 4:], activations[:, 4:], prefix=prefix, start=4)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False
        limit = TOLERANCE * max(1.0, float(whole.abs().max()))
        return bool((upper - whole).abs().max() < limit and (later - whole[:, 4:]).abs().max() < limit)

    def begin(
        self, token_ids: Int[Tensor, "1 position"], activations: Float[Tensor, "1 position d"]
    ) -> tuple[Prefix, Float[Tensor, "position vocab"]]:
        """Return the keys and values of a whole text, with which later passes continue any beginning of it, and its
        logits.
        """
        cache = DynamicCache()
        logits = self._run(token_ids, activations, cache, None)[0]
        return [(layer.keys, layer.values) for layer in cache.layers[self.skipped :]], logits

    def logits(
        self,
        token_ids: Int[Tensor, "batch position"],
        activations: Float[Tensor, "batch position d"],
        *,
        prefix: Prefix | None = None,
        start: int = 0,
        rows: Bool[Tensor, "batch position"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Next-token logits, float32.

        Args:
            token_ids: of the positions from `start` on.
            activations: what the model is to hold at the hook point there.
            prefix: of the text that all rows of the batch share before `start`.
            start: first position.
            rows: positions whose logits are wanted; the result then has one row per position, in order.
        """
        cache = None if prefix is None or start == 0 else self._continued(prefix, start, len(token_ids))
        return self._run(token_ids, activations, cache, rows)

    def _continued(self, prefix: Prefix, start: int, batch: int) -> Cache:
        """Return a cache of the first `start` positions. The blocks that do not run have an empty tensor of its length,
        because the model reads the number of earlier positions from its first layer."""
        cache = DynamicCache()
        keys = prefix[0][0]
        nothing = keys.new_zeros((batch, 1, start, 1))
        for layer in range(self.skipped):
            cache.update(nothing, nothing, layer)
        for layer, (keys, values) in enumerate(prefix, start=self.skipped):
            own = (part[:, :, :start].expand(batch, -1, -1, -1) for part in (keys, values))
            cache.update(*own, layer)
        return cache

    def _run(
        self,
        token_ids: Int[Tensor, "batch position"],
        activations: Float[Tensor, "batch position d"],
        cache: Cache | None,
        rows: Bool[Tensor, "batch position"] | None,
    ) -> Float[Tensor, "..."]:
        device = self.model.device
        with HookManager() as hooks, ExitStack() as changed, torch.no_grad():
            for block, is_tuple in zip(self._blocks, self._is_tuple, strict=False):
                changed.enter_context(_skipped(block, is_tuple))
            hooks.write(
                self._module,
                lambda own: activations.to(device=own.device, dtype=own.dtype).reshape(own.shape),
                point=self._side,
            )
            if rows is not None:
                chosen = rows.to(device)
                handle = self._head.register_forward_pre_hook(lambda _, args: (args[0][chosen][None], *args[1:]))
                changed.callback(handle.remove)
            output = self.model.hf_model(
                input_ids=token_ids.to(device), past_key_values=cache, use_cache=cache is not None
            )
        logits: Tensor = output.logits
        return (logits if rows is None else logits[0]).float()


@contextmanager
def _skipped(block: nn.Module, is_tuple: bool) -> Iterator[None]:
    """Let a block give what it gets; its hooks run as ever."""
    own = block.__dict__.get("forward")  # an instance's own forward, which `accelerate` sets

    def identity(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, None) if is_tuple else hidden

    block.forward = identity
    try:
        yield
    finally:
        del block.forward
        if own is not None:
            block.forward = own


@contextmanager
def _noting(block: nn.Module, found: list[bool]) -> Iterator[None]:
    """Note whether a block gives a tuple."""
    handle = block.register_forward_hook(lambda _module, _args, output: found.append(isinstance(output, tuple)))
    try:
        yield
    finally:
        handle.remove()
