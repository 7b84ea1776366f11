"""A causal language model that can be stopped, read and changed at a hook point."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import torch
from interp_engine.arch import special_token_ids
from interp_engine.hooks import HookManager
from interp_engine.model import EagerModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from sae_core.errors import ModelError
from sae_core.files import sha256_json
from sae_core.models.chat import RenderedChat, render_chat
from sae_core.models.hooks import HookPoint
from sae_core.models.points import module_at, write_at
from sae_core.models.readout import TEXT, OutputDirections, Readout, ReadoutError, find_readout
from sae_core.models.vocabulary import InputTokens, known_token_ids, spellings, token_bytes

Replace = Callable[
    [Float[Tensor, "batch position d_out"], Float[Tensor, "batch position d_in"]],
    Float[Tensor, "batch position d_out"],
]
Write = Callable[[Float[Tensor, "batch position d"]], Float[Tensor, "batch position d"]]


class _HookReached(Exception):
    """Ends a forward pass as soon as the hook points have been read."""


class LanguageModel:
    """A `transformers` causal language model with its tokenizer. Made by `load_model`."""

    name: str
    """Slug, such as `smollm2-135m`."""
    source: str
    """Source that `load_model` was called with."""
    weights_sha256: str
    """Of the files that hold weights and architecture."""
    tokenizer_sha256: str
    hf_model: Any
    tokenizer: Any
    device: torch.device
    dtype: str
    """Of the weights, such as `float32`; activations are computed in it."""
    n_layers: int
    d_model: int
    vocab_size: int
    """Rows of the unembedding; may exceed the tokenizer's tokens."""
    context_length: int | None
    """Most positions a sequence may have, where the model states it."""
    bos_token_id: int | None
    """The token that sequences start with (see `prefix`): the tokenizer's BOS, or its EOS where it has no BOS."""
    eos_token_id: int | None
    end_token_ids: frozenset[int]
    """Tokens that end a text: EOS, and those that the model's own generation ends with, such as the end of a turn."""
    special_token_ids: frozenset[int]

    def __init__(self, *, hf_model: Any, tokenizer: Any, name: str, source: str, weights_sha256: str) -> None:
        try:
            self._eager = EagerModel(source, hf_model=hf_model, tokenizer=tokenizer)
        except ValueError as error:
            raise ModelError(f"interp-engine cannot find its way in {source}: {error} Choose another model.") from error
        self.hf_model = hf_model
        self.device = self._eager.device
        self.dtype = str(next(hf_model.parameters()).dtype).removeprefix("torch.")
        self.name, self.source, self.weights_sha256 = name, source, weights_sha256
        generation_config = getattr(hf_model, "generation_config", None)
        self._describe(self._eager, self._eager.arch.lm_head.weight.shape[0], hf_model.config, generation_config)

    def _describe(self, engine: Any, vocab_size: int, config: Any, generation_config: Any) -> None:
        """Take what interp-engine's model, its tokenizer and `transformers`' configs say."""
        tokenizer = engine.tokenizer
        self._tok = engine.tok
        self.tokenizer = tokenizer
        self.n_layers = engine.n_layers
        self.d_model = engine.d_model
        self.vocab_size = vocab_size
        self.context_length = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.eos_token_id = tokenizer.eos_token_id
        self.bos_token_id = self.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.end_token_ids = _end_token_ids(generation_config, self.eos_token_id)
        self.require_row(max(self.bos_token_id or 0, self.eos_token_id or 0))
        flagged = (token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special)
        self.special_token_ids = frozenset(special_token_ids(tokenizer)).union(flagged)
        self.tokenizer_sha256 = _tokenizer_sha256(tokenizer)
        self._token_bytes: list[bytes] | None = None
        self._d_in: dict[HookPoint, int] = {}

    # Text and tokens

    def prefix(self, *, prepend_bos: bool = True) -> list[int]:
        """Return the token ids that every sequence starts with: BOS, if the tokenizer has one and the SAE wants it."""
        return [self.bos_token_id] if prepend_bos and self.bos_token_id is not None else []

    def tokenize(self, text: str, *, prepend_bos: bool = True) -> list[int]:
        """Return the token ids of `text`, starting with exactly one `prefix`.

        Special tokens that are spelled out in `text` are recognised. So a text that starts with BOS's own spelling, as
        the text of a whole sequence does, gets no second one.

        Raises:
            ModelError: the model has no row for a token of the text.
        """
        token_ids: list[int] = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        self.require_row(max(token_ids, default=0))
        prefix = self.prefix(prepend_bos=prepend_bos)
        return token_ids if token_ids[: len(prefix)] == prefix else [*prefix, *token_ids]

    @property
    def has_chat_format(self) -> bool:
        """True if `render_chat` can write conversations."""
        found: bool = self._tok.has_chat_template()
        return found

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> RenderedChat:
        """Return a conversation in the model's own chat format.

        Raises:
            ChatError: the model has no chat format, or its format refuses these messages.
        """
        return render_chat(self._tok, messages, self.name)

    def require_row(self, token_id: int) -> None:
        """Refuse a token that only the tokenizer has, such as one that was added to it and never to the model.

        Raises:
            ModelError: the model's vocabulary ends before `token_id`.
        """
        if token_id >= self.vocab_size:
            token = self.tokenizer.convert_ids_to_tokens(token_id)
            raise ModelError(
                f"{self.name} has no row for the token {token_id} ({token!r}): its vocabulary has {self.vocab_size} "
                "rows. Give the model its own tokenizer, or a text without it."
            )

    def character_ends(self, text: str, token_ids: Sequence[int]) -> list[int]:
        """Return how many characters of `text` end with each of the tokens that `tokenize` made of it, ascending.

        Characters that the tokenizer adds (BOS, sentencepiece's first space) count as none, those that it changes as
        they are in `text`. A character that is split over tokens belongs to the last of them.
        """
        offsets = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets
        ends = [len(text)]
        for start, _ in reversed(offsets[1:]):
            ends.append(min(start, ends[-1]))
        return [*[0] * (len(token_ids) - len(offsets)), *reversed(ends[: len(offsets)])]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens spelled out; bytes that are not UTF-8 become U+FFFD."""
        vocabulary = self.token_bytes()
        return b"".join(vocabulary[token_id] for token_id in token_ids).decode(errors="replace")

    def token_bytes(self) -> list[bytes]:
        """Raw bytes of each of the `vocab_size` tokens, never empty; a special token gives its text.

        Raises:
            ModelError: the vocabulary is neither byte-level BPE nor sentencepiece.
        """
        if self._token_bytes is None:
            self._token_bytes = token_bytes(self.tokenizer, self.vocab_size)
        return self._token_bytes

    # Activations and logits

    def d_in(self, hook: HookPoint) -> int:
        """Width of the activations at `hook`.

        Raises:
            ModelError: the model has no such hook point.
        """
        if hook not in self._d_in:
            self._d_in[hook] = self.activations(torch.zeros((1, 1), dtype=torch.long), hook).shape[-1]
        return self._d_in[hook]

    def activations(
        self,
        token_ids: Int[Tensor, "batch position"],
        *hooks: HookPoint,
        after_block: Callable[[], None] | None = None,
    ) -> Float[Tensor, "batch position d_in"]:
        """Activations at `hooks`, side by side, float32, on the model's device. The forward pass stops at the last.

        Attention is causal, so right padding changes nothing before it and needs no mask. `after_block` is called after
        each block before the last hook's; what it raises ends the pass.

        Raises:
            ModelError: the model has no such hook point, or the sequences are longer than its context.
        """
        captured: dict[HookPoint, Tensor] = {}

        def capture(hook: HookPoint, activations: Tensor) -> None:
            captured[hook] = activations if len(hooks) == 1 else activations.clone()
            if len(captured) == len(set(hooks)):
                raise _HookReached

        # After the last hook nothing runs that could write into the tensor: no copy of it alone is needed.
        with HookManager() as manager, torch.no_grad(), suppress(_HookReached):
            for hook in set(hooks):
                module, side = self.resolve(hook)
                manager.read(module, partial(capture, hook), point=side)
            if after_block is not None:
                for layer in range(max(hook.layer for hook in hooks)):
                    module, side = self.resolve(HookPoint("resid_post", layer))
                    manager.read(module, lambda _: after_block(), point=side)
            self._forward(token_ids)
        for hook in hooks:
            if hook not in captured:
                raise ModelError(
                    f"{self.name} never computes {hook} as a tensor of its own. Choose another hook point."
                )
        found = [_by_position(captured[hook], token_ids).float() for hook in hooks]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def logits(
        self,
        token_ids: Int[Tensor, "batch position"],
        hook: HookPoint | None = None,
        replace: Replace | None = None,
        *,
        read: HookPoint | None = None,
    ) -> Float[Tensor, "batch position vocab"]:
        """Next-token logits, float32, on the model's device.

        With `hook` and `replace`, the pass continues with `replace(activations, read_activations)` instead of the
        activations at `hook`. `read_activations` are those at `read`, a point that comes before `hook` in the forward
        pass, or `hook` itself if none is given. All are float32.

        Raises:
            ModelError: the model has no such hook point, the sequences are longer than its context, or `read` does
                not come before `hook`.
        """
        with HookManager() as hooks, torch.no_grad():
            if hook is not None and replace is not None:
                captured: list[Tensor] = []

                def write(activations: Tensor) -> Tensor:
                    if read is not None and not captured:
                        raise ModelError(
                            f"{read} does not come before {hook} in {self.name}. Swap the two hook points."
                        )
                    own = _by_position(activations, token_ids).float()
                    replaced = replace(own, _by_position(captured.pop(), token_ids).float() if captured else own)
                    return replaced.to(activations.dtype).reshape(activations.shape)

                if read is not None:
                    module, side = self.resolve(read)
                    hooks.read(module, lambda activations: captured.append(activations.clone()), point=side)
                write_at(hooks, self.resolve(hook), hook, write)
            logits: Tensor = self._forward(token_ids).logits
        return logits.float()

    def new_cache(self) -> Cache:
        """Return an empty key-value cache for `extend`; each text has its own."""
        return DynamicCache(config=self.hf_model.config)

    def extend(
        self, token_ids: Int[Tensor, "batch position"], cache: Cache, *, last_only: bool = False
    ) -> Float[Tensor, "batch read vocab"]:
        """Next-token logits, float32, after each of these tokens, which follow those in `cache` and join them there.

        With `last_only`, those after the last one: memory does not grow with positions × vocabulary.

        Raises:
            ModelError: with them the sequences are longer than the model's context.
        """
        with HookManager() as hooks, torch.no_grad():
            if last_only and token_ids.shape[1] > 1:
                self._unembed_last(hooks)
            logits: Tensor = self._forward(token_ids, cache).logits
        return logits.float()

    def _unembed_last(self, hooks: HookManager) -> None:
        hooks.write(self._eager.arch.lm_head, lambda hidden: hidden[:, -1:], point="input")

    def last_logits(
        self, token_ids: Int[Tensor, "batch position"], writes: Mapping[HookPoint, Write]
    ) -> Float[Tensor, "batch vocab"]:
        """Next-token logits after the last position, float32, on the model's device. Gradients flow where they are on.

        At each hook of `writes` the pass continues with what its function returns for the activations there, both
        float32. Only the last position is unembedded, so memory does not grow with positions × vocabulary.

        Raises:
            ModelError: the model has no such hook point, or never computes one; or the sequences are too long.
        """
        reached: set[HookPoint] = set()

        def write(hook: HookPoint, activations: Tensor) -> Tensor:
            reached.add(hook)
            written = writes[hook](_by_position(activations, token_ids).float())
            return written.to(activations.dtype).reshape(activations.shape)

        with HookManager() as hooks:
            for hook in writes:
                write_at(hooks, self.resolve(hook), hook, partial(write, hook))
            self._unembed_last(hooks)
            logits: Tensor = self._forward(token_ids).logits
        for hook in writes:
            if hook not in reached:
                raise ModelError(
                    f"{self.name} never computes {hook} as a tensor of its own. Choose another hook point."
                )
        return logits[:, -1].float()

    def _forward(self, token_ids: Int[Tensor, "batch position"], cache: Cache | None = None) -> Any:
        self._require_context(token_ids.shape[1] + (0 if cache is None else cache.get_seq_length()))
        return self.hf_model(input_ids=token_ids.to(self.device), past_key_values=cache, use_cache=cache is not None)

    def _require_context(self, tokens: int) -> None:
        if self.context_length is not None and tokens > self.context_length:
            raise ModelError(
                f"{self.name} reads at most {self.context_length} tokens, not {tokens}. Use shorter sequences."
            )

    def resolve(self, hook: HookPoint) -> tuple[nn.Module, str]:
        """Return the module that `hook` is at, and its side: input or output.

        Raises:
            ModelError: the model has no such hook point.
        """
        return module_at(self._eager, hook, self.name)

    # Readout

    def writes_residual(self, hook: HookPoint) -> bool:
        """Return True if activations at `hook` are in the residual stream, or are added to it as they are.

        Gemma's layers norm what attention and MLP give before they add it: there only the point after that norm is.
        """
        if hook.name in ("attn_out", "mlp_out"):
            arch = self._eager.arch
            return (arch.post_attn_norm if hook.name == "attn_out" else arch.post_mlp_norm)(hook.layer) is None
        return hook.name.startswith("resid_") or hook.name in ("attn_out_post", "mlp_out_post")

    def output_directions(self) -> OutputDirections:
        """Return what a direction in the residual stream adds to the logit of each token that the tokenizer has.

        Raises:
            ReadoutError: no readout reproduces the model's own logits on a short text.
        """
        known = known_token_ids(self.tokenizer, self.vocab_size)
        return self.readout().directions(self.d_model, torch.tensor(known, device=self.device))

    def input_tokens(self) -> InputTokens:
        """Return the embedding of each token id, and which tokens are spellings of one word."""
        return InputTokens(self.hf_model.get_input_embeddings().weight.detach(), spellings(self.token_bytes()))

    def readout(self) -> Readout:
        """Return the modules from the last residual stream to the logits.

        Raises:
            ReadoutError: no readout reproduces the model's own logits on a short text.
        """
        try:
            block, side = self.resolve(HookPoint("resid_post", self.n_layers - 1))
        except ModelError as error:
            raise ReadoutError(f"the model has no one residual stream after its last block ({error})") from error
        if side != "output":
            raise ReadoutError("the residual stream after the model's last block is not the output of a module")
        return find_readout(
            lambda: self._forward(torch.tensor([self.tokenize(TEXT)])),
            self.hf_model,
            block,
            cast(nn.Linear, self._eager.arch.lm_head),
            multiplier=self._eager.logit_multiplier,
            softcap=self._eager.final_logit_softcapping,
        )


def _by_position(activations: Tensor, token_ids: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position d_in"]:
    """Undo the flattening of batch and position that some modules (OPT's MLP) do."""
    return activations.reshape(*token_ids.shape, activations.shape[-1])


def _end_token_ids(generation_config: Any, eos_token_id: int | None) -> frozenset[int]:
    """Return EOS and what `generation_config` adds to it: Gemma's names the end of a turn, its tokenizer does not."""
    named = getattr(generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return frozenset(token_id for token_id in [eos_token_id, *ids] if token_id is not None)


def _tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of the tokenizer's parts that decide the token ids of a text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for transient in ("version", "truncation", "padding"):
        state.pop(transient, None)
    return sha256_json({"tokenizer": state, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id})
