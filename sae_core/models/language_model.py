"""A causal language model that can be stopped, read and changed at a hook point."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.models.hooks import HookPoint

Replace = Callable[[Float[Tensor, "batch position d_in"]], Float[Tensor, "batch position d_in"]]


class LanguageModel:
    """A `transformers` causal language model with its tokenizer. Made by `load_model`."""

    name: str
    """Slug, such as `smollm2-135m`."""
    source: str
    """What `load_model` was given."""
    weights_sha256: str
    tokenizer_sha256: str
    hf_model: Any
    tokenizer: Any
    device: torch.device
    n_layers: int
    d_model: int
    vocab_size: int
    """Rows of the unembedding; may exceed the tokenizer's tokens."""
    context_length: int | None
    """Most positions a sequence may have, if the model is limited."""
    bos_token_id: int | None
    """The token that every sequence starts with: the tokenizer's BOS, or its EOS where it has no BOS."""
    eos_token_id: int | None
    special_token_ids: frozenset[int]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, starting with exactly one BOS."""
        raise NotImplementedError

    def decode(self, token_ids: list[int]) -> str:
        """Text of `token_ids`, special tokens included; `tokenize` takes it back."""
        raise NotImplementedError

    def token_bytes(self) -> list[bytes]:
        """Raw bytes of each of the `vocab_size` tokens; a special token gives its text, never b""."""
        raise NotImplementedError

    def d_in(self, hook: HookPoint) -> int:
        """Width of the activations at `hook`."""
        raise NotImplementedError

    def activations(
        self, token_ids: Int[Tensor, "batch position"], hook: HookPoint
    ) -> Float[Tensor, "batch position d_in"]:
        """Activations at `hook`, float32, on the model's device; the forward pass stops there."""
        raise NotImplementedError

    def logits(
        self, token_ids: Int[Tensor, "batch position"], hook: HookPoint | None = None, replace: Replace | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """Next-token logits, float32; with `replace`, the activations at `hook` are replaced by its result."""
        raise NotImplementedError

    def output_directions(self) -> Float[Tensor, "d_model vocab"]:
        """Effect of a direction in the residual stream on each logit."""
        raise NotImplementedError
