"""The layers above a hook point, run from activations that are known already."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from interp_engine.hooks import HookManager
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from sae_core.models import HookPoint, LanguageModel
from sae_core.models.points import write_at

TOLERANCE = 1e-3
"""Logits that differ by more than this from those of the whole pass are not trusted: the whole model runs then."""

Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values of some texts, by layer: `[text, head, position, d]`."""


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
        self._place = model.resolve(hook)
        self._head: nn.Module = model.hf_model.get_output_embeddings()
        self.skipped = {"resid_post": hook.layer + 1, "resid_pre": hook.layer}.get(hook.name, 0)
        """Blocks that do not run; 0 where the whole model does."""
        layers = range(model.n_layers if self.skipped else 0)
        self._blocks = [model.resolve(HookPoint("resid_post", layer))[0] for layer in layers]
        self._is_tuple: list[bool] = []
        self.why = "" if self.skipped else f"{hook} is not a point between two layers"
        """Why the whole model runs, as a clause; empty if it does not."""
        if self.skipped and not self._equals_whole_pass():
            self.skipped, self._blocks = 0, []
            self.why = "the layers above it alone do not give this model's logits"

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
            prefix, hidden = self.begin(token_ids, activations)
            later = self.logits(token_ids[:, 4:], activations[:, 4:], prefix=prefix, start=4)
            found = [self.logits(token_ids, activations), self.unembed(hidden[0])[None]]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False
        limit = TOLERANCE * max(1.0, float(whole.abs().max()))
        return all(bool((own - whole[:, -own.shape[1] :]).abs().max() < limit) for own in (*found, later))

    def bytes_per_token(self, token_ids: Int[Tensor, "text position"], activations: Tensor) -> int:
        """Return what `begin` keeps of one token, in bytes."""
        prefix, hidden = self.begin(token_ids[:1, :1], activations[:1, :1])
        return sum(part.nbytes for pair in prefix for part in pair) + hidden.nbytes

    def begin(
        self, token_ids: Int[Tensor, "text position"], activations: Float[Tensor, "text position d"], *, batch: int = 8
    ) -> tuple[Prefix, Float[Tensor, "text position d_head"]]:
        """Return the keys and values of whole texts, with which later passes continue any beginning of them, and what
        the unembedding reads. `batch` texts are read at once.
        """
        prefix: Prefix = []
        hidden: list[Tensor] = []

        def keep(own: Tensor) -> Tensor:
            hidden.append(own)
            return own[:, :1]

        for start in range(0, len(token_ids), batch):
            part = slice(start, start + batch)
            cache = DynamicCache()
            self._run(token_ids[part], activations[part], cache, keep)
            read = [(layer.keys, layer.values) for layer in cache.layers[self.skipped :]]
            if not prefix:
                prefix = [tuple(own.new_empty((len(token_ids), *own.shape[1:])) for own in pair) for pair in read]
            for whole, own in zip(chain(*prefix), chain(*read), strict=True):
                whole[part] = own
        return prefix, torch.cat(hidden)

    def unembed(self, hidden: Float[Tensor, "row d_head"]) -> Float[Tensor, "row vocab"]:
        """Next-token logits, float32, of what `begin` gave, with all that the model does to its logits."""
        one_token = torch.zeros((1, 1), dtype=torch.int64)
        return self._run(one_token, None, None, lambda _: hidden[None])[0]

    def logits(
        self,
        token_ids: Int[Tensor, "batch position"],
        activations: Float[Tensor, "batch position d"],
        *,
        prefix: Prefix | None = None,
        texts: Int[Tensor, " batch"] | None = None,
        start: int = 0,
        rows: Bool[Tensor, "batch position"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Next-token logits, float32.

        Args:
            token_ids: of the positions from `start` on.
            activations: what the model is to hold at the hook point there.
            prefix: of texts, as `begin` gives it.
            texts: the one of them that each row of the batch continues; by default the first.
            start: first position.
            rows: positions whose logits are wanted; the result then has one row per position, in order.
        """
        cache = None
        if prefix is not None and start:
            first = torch.zeros(len(token_ids), dtype=torch.int64)
            cache = self._continued(prefix, first if texts is None else texts, start)
        if rows is None:
            return self._run(token_ids, activations, cache, lambda hidden: hidden)
        chosen = rows.to(self.model.device)
        return self._run(token_ids, activations, cache, lambda hidden: hidden[chosen][None])[0]

    def _continued(self, prefix: Prefix, texts: Int[Tensor, " batch"], start: int) -> Cache:
        """Return a cache of the first `start` positions. The blocks that do not run have an empty tensor of its length,
        because the model reads the number of earlier positions from its first layer."""
        cache = DynamicCache()
        keys = prefix[0][0]
        texts = texts.to(keys.device)
        nothing = keys.new_zeros((len(texts), 1, start, 1))
        for layer in range(self.skipped):
            cache.update(nothing, nothing, layer)
        for layer, pair in enumerate(prefix, start=self.skipped):
            cache.update(*(part[texts, :, :start] for part in pair), layer)
        return cache

    def _run(
        self,
        token_ids: Int[Tensor, "batch position"],
        activations: Float[Tensor, "batch position d"] | None,
        cache: Cache | None,
        unembedded: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "batch position vocab"]:
        """Return the logits of what `unembedded` makes of the unembedding's input. Without activations, which are put
        at the hook point, no block needs to run.
        """
        device = self.model.device
        skipped = self._blocks if activations is None else self._blocks[: self.skipped]
        with HookManager() as hooks, ExitStack() as changed, torch.no_grad():
            for block, is_tuple in zip(skipped, self._is_tuple, strict=False):
                changed.enter_context(_skipped(block, is_tuple))
            if activations is not None:
                write_at(
                    hooks,
                    self._place,
                    self.hook,
                    lambda own: activations.to(device=own.device, dtype=own.dtype).reshape(own.shape),
                )
            handle = self._head.register_forward_pre_hook(lambda _, args: (unembedded(args[0]), *args[1:]))
            changed.callback(handle.remove)
            output = self.model.hf_model(
                input_ids=token_ids.to(device), past_key_values=cache, use_cache=cache is not None
            )
        logits: Tensor = output.logits
        return logits.float()


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
