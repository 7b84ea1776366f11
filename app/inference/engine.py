"""Run texts through a model and an SAE."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import structlog
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from app.errors import TooLarge, Unavailable, Unprocessable
from app.inference.residency import Residency
from app.services.inference_messages import ChatMessage, ModelRef, SaeRef
from sae_core.errors import BackendError, InterventionError, MonitorError, SAEError
from sae_core.models import HookPoint, LanguageModel
from sae_core.models.chat import ChatError, ChatToken, RenderedChat
from sae_core.saes import SAE

log = structlog.get_logger("inference")

_BLOCK = 128
"""Tokens encoded at a time: dense activations of 128 tokens and 65,536 features are 32 MB."""


@dataclass(frozen=True)
class SparseActivations:
    """Nonzero activations on one text: columns of equal length, sorted by feature and then by position."""

    token_ids: list[int]
    ends: list[int]
    """Characters of the text up to the end of each token."""
    counted: list[bool]
    """False for BOS and special tokens, whose activations are left out."""
    features: Int64[np.ndarray, " active"]
    positions: Int64[np.ndarray, " active"]
    activations: Float64[np.ndarray, " active"]

    def max_per_feature(self) -> tuple[Int64[np.ndarray, " feature"], Float64[np.ndarray, " feature"]]:
        """Return every active feature, ascending, and its maximum activation."""
        features, first = np.unique(self.features, return_index=True)
        return features, np.maximum.reduceat(self.activations, first) if len(first) else self.activations


@dataclass(frozen=True)
class PromptActivations:
    """A prompt as the model read it, with the activations of each SAE."""

    text: str
    roles: list[str | None]
    added: list[bool]
    """True for tokens that the author did not write."""
    activations: list[SparseActivations]


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the model reads it."""

    text: str
    token_ids: list[int]
    ends: list[int]
    """Characters of the text up to the end of each token."""
    tokens: list[ChatToken]


class ProbeEngine:
    """Loads models and runs texts. Whoever calls `load` or `probe` holds the one turn: they share memory and processor.

    Args:
        residency: where models and SAEs come from.
        max_tokens: longest text, in tokens without BOS.
    """

    def __init__(self, residency: Residency, max_tokens: int) -> None:
        self._residency = residency
        self._max_tokens = max_tokens

    def has(self, sae: SaeRef) -> bool:
        """True if the SAE and its model are in memory."""
        return self.has_model(sae) and self._residency.has_sae(sae)

    def has_model(self, sae: SaeRef) -> bool:
        """True if the SAE's model is in memory."""
        return self._residency.has_model(sae.model)

    def load(self, sae: SaeRef) -> None:
        """Load the SAE and its model if they are not in memory.

        Raises:
            TooLarge: they need more memory than there is.
            Unavailable: they cannot be loaded, or memory ran out.
        """
        with self._memory_freed(), _load_errors_logged(sae), self._residency.use(sae):
            pass

    def probe(self, sae: SaeRef, text: str, *, raise_if_gone: Callable[[], None] = lambda: None) -> SparseActivations:
        """Return the activations of all features of `sae` on `text`; see `probe_prompt`."""
        return self.probe_prompt([sae], text, raise_if_gone=raise_if_gone).activations[0]

    def probe_prompt(
        self,
        saes: Sequence[SaeRef],
        text: str,
        chat: Sequence[ChatMessage] | None = None,
        *,
        raise_if_gone: Callable[[], None] = lambda: None,
    ) -> PromptActivations:
        """Return the activations of all features of `saes`, which are of one model, from one forward pass.

        `raise_if_gone` is called again and again, and ends the work by raising.

        BOS and special tokens come back as not counted and without activations: models put a huge vector on BOS that
        means nothing, and the index leaves them out too.

        Args:
            saes: at least one.
            text: what to read where `chat` is None.
            chat: a conversation, read in the model's own chat format.

        Raises:
            TooLarge: the prompt is longer than the limit or the model's context, or needs more memory than there is.
            Unprocessable: the text has no tokens, and the SAE wants no BOS; the model has no chat template, or it
                refuses the conversation; one of the SAEs wants BOS and another does not.
            Unavailable: the model or an SAE cannot be loaded, or there is not enough memory.
        """
        with self.use(*saes) as (model, dictionaries):
            require_same_start(saes, dictionaries)
            prompt = self.read_prompt(model, dictionaries[0], text, chat)
            self.make_room(sum(_working_bytes(model, sae, len(prompt.token_ids)) for sae in dictionaries))
            hooks = [HookPoint.parse(sae.hook) for sae in saes]
            activations = _run(model, dictionaries, hooks, prompt.token_ids, prompt.ends, raise_if_gone)
        return PromptActivations(
            prompt.text, [token.role for token in prompt.tokens], [token.added for token in prompt.tokens], activations
        )

    @contextmanager
    def use(self, *saes: SaeRef) -> Iterator[tuple[LanguageModel, list[SAE]]]:
        """Yield SAEs of one model and the model, in memory, to a body that runs texts.

        Raises:
            TooLarge: they need more memory than there is.
            Unavailable: one cannot be loaded or run, or memory ran out in the body.
        """
        with self._memory_freed(), ExitStack() as held:
            dictionaries = []
            for sae in saes:
                with _load_errors_logged(sae):
                    model, dictionary = held.enter_context(self._residency.use(sae))
                dictionaries.append(dictionary)
            try:
                yield model, dictionaries
            except BackendError as error:
                raise _impossible(str(error)) from error
            except InterventionError as error:
                raise Unprocessable(str(error)) from error
            except SAEError as error:
                raise Unavailable(f"{saes[0].slug} cannot be probed: {error}") from error

    @contextmanager
    def use_model(self, ref: ModelRef) -> Iterator[LanguageModel]:
        """Yield a model, in memory, to a body that runs texts without an SAE.

        Raises:
            TooLarge: it needs more memory than there is.
            Unavailable: it cannot be loaded or run, or memory ran out in the body.
        """
        with self._memory_freed(), ExitStack() as held:
            try:
                model = held.enter_context(self._residency.use_model(ref))
            except SAEError as error:
                log.warning("cannot_load", model=ref.name, reason=str(error))
                raise Unavailable(
                    f"The model {ref.name} cannot be loaded. The log of the inference process says why."
                ) from error
            try:
                yield model
            except BackendError as error:
                raise _impossible(str(error)) from error
            except (ChatError, MonitorError) as error:
                raise Unprocessable(str(error)) from None  # a cause is logged, and might quote the conversation

    def require_gradients(self, what: str) -> None:
        """Refuse work that needs gradients through the model, before anything is loaded.

        Raises:
            Unprocessable: the back end gives none.
        """
        if self._residency.backend != "eager":
            raise _impossible(f"{what} needs gradients through the model, which vLLM does not give.")

    def make_room(self, nbytes: int) -> None:
        """Evict models and SAEs that nobody uses until this many bytes are free; raises as `ResidentModules` does."""
        self._residency.modules.make_room(nbytes)

    def reserve(self, nbytes: int) -> AbstractContextManager[None]:
        """Make room as `make_room` does, and keep it while the context is open."""
        return self._residency.modules.reserve(nbytes)

    @contextmanager
    def _memory_freed(self) -> Iterator[None]:
        """Drop models and SAEs where the body runs out of memory.

        Raises:
            Unavailable: it did.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        else:
            return
        # After the handler, because a traceback keeps the tensors of its frames alive.
        self._residency.free_memory()
        raise Unavailable(
            "There is not enough memory for this probe. Try a shorter text; if that fails too, run the inference "
            "process on a machine with more memory, or on the CPU with SEESAE_DEVICE=cpu."
        )

    def read_prompt(
        self,
        model: LanguageModel,
        sae: SAE,
        text: str,
        chat: Sequence[ChatMessage] | None,
        *,
        max_tokens: int | None = None,
    ) -> ReadPrompt:
        """Return the tokens of a text, or of a conversation in the model's chat format; raises as `probe_prompt`.

        `max_tokens` replaces the limit of probes and of the model's context.
        """
        try:
            rendered = None if chat is None else model.render_chat([message.model_dump() for message in chat])
        except ChatError as error:
            raise Unprocessable(str(error)) from None  # a cause is logged, and might quote the conversation
        text = text if rendered is None else rendered.text
        token_ids = self.tokenize(model, sae, text, max_tokens=max_tokens)
        ends = model.character_ends(text, token_ids)
        return ReadPrompt(text, token_ids, ends, _token_origins(model, token_ids, rendered))

    def tokenize(self, model: LanguageModel, sae: SAE, text: str, *, max_tokens: int | None = None) -> list[int]:
        """Return the tokens of a text.

        Raises:
            TooLarge: it is longer than the limit or the model's context.
            Unprocessable: it has no tokens, and the SAE wants no BOS.
        """
        token_ids = model.tokenize(text, prepend_bos=sae.prepend_bos)
        if not token_ids:
            raise Unprocessable("The text has no tokens. Write something to probe.")
        limit = max_tokens or min(self._max_tokens, (model.context_length or self._max_tokens + 1) - 1)
        tokens = len(token_ids) - (token_ids[:1] == [model.bos_token_id])
        if tokens > limit:
            raise TooLarge(f"The text has {tokens:,} tokens; at most {limit:,} can be probed at once. Shorten it.")
        return token_ids


def _impossible(what: str) -> Unprocessable:
    """Return the refusal of what the back end cannot do."""
    return Unprocessable(f"{what} It works with SEESAE_BACKEND=eager in the settings of the inference process.")


@contextmanager
def _load_errors_logged(sae: SaeRef) -> Iterator[None]:
    """Log why model or SAE cannot be loaded: that names files of this machine, which a visitor does not get to see.

    Raises:
        Unavailable: they cannot be loaded.
    """
    try:
        yield
    except SAEError as error:
        log.warning("cannot_load", sae=sae.slug, model=sae.model.name, reason=str(error))
        raise Unavailable(
            f"{sae.slug} cannot be probed: its weights or its model {sae.model.name} cannot be loaded. The log of the "
            "inference process says why."
        ) from error


def _working_bytes(model: LanguageModel, sae: SAE, tokens: int) -> int:
    """Estimate the memory of a probe: some twenty activations per token in a block of the model, and dense features."""
    return 4 * (20 * tokens * model.d_model + 3 * min(tokens, _BLOCK) * sae.d_sae)


def _token_origins(model: LanguageModel, token_ids: list[int], rendered: RenderedChat | None) -> list[ChatToken]:
    """Return the role of each token, and whether it was added: BOS always counts as added."""
    own = [ChatToken(None, False)] * len(token_ids) if rendered is None else list(rendered.tokens)
    tokens = ([ChatToken(None, True)] * (len(token_ids) - len(own)) + own)[-len(token_ids) :]
    if token_ids[0] == model.bos_token_id:
        tokens[0] = ChatToken(tokens[0].role, True)
    return tokens


def require_same_start(refs: Sequence[SaeRef], saes: Sequence[SAE]) -> None:
    """Refuse SAEs that need different tokens from one text.

    Raises:
        Unprocessable: one wants BOS in front and another does not.
    """
    for ref, sae in zip(refs, saes, strict=True):
        if sae.prepend_bos != saes[0].prepend_bos:
            raise Unprocessable(
                f"{refs[0].slug} and {ref.slug} cannot share a forward pass, because only one of them reads texts "
                "with BOS in front: use them one after the other."
            )


@torch.inference_mode()
def _run(
    model: LanguageModel,
    saes: Sequence[SAE],
    hooks: Sequence[HookPoint],
    token_ids: list[int],
    ends: list[int],
    raise_if_gone: Callable[[], None],
) -> list[SparseActivations]:
    ids: Int[Tensor, "1 position"] = torch.tensor([token_ids])
    x: Float[Tensor, "position d_in"] = model.activations(ids, *hooks, after_block=raise_if_gone)[0]
    counted = counted_tokens(model, token_ids)
    inputs = [x] if len(hooks) == 1 else torch.split(x, [model.d_in(hook) for hook in hooks], dim=-1)
    return [_encode(sae, own, token_ids, ends, counted, raise_if_gone) for sae, own in zip(saes, inputs, strict=True)]


def _encode(
    sae: SAE,
    x: Float[Tensor, "position d_in"],
    token_ids: list[int],
    ends: list[int],
    counted: Bool[np.ndarray, " position"],
    raise_if_gone: Callable[[], None],
) -> SparseActivations:
    features, positions, activations = [], [], []
    for start in range(0, len(token_ids), _BLOCK):
        raise_if_gone()
        active, values = sae.encode_sparse(x[start : start + _BLOCK])
        features.append(active.features.cpu().numpy())
        positions.append(active.rows.cpu().numpy() + start)
        activations.append(values.float().cpu().numpy())
    feature, position, activation = (np.concatenate(parts) for parts in (features, positions, activations))
    order = np.lexsort((position, feature))
    order = order[counted[position[order]]]
    values_in_order = _round_to_float32_digits(activation[order])
    return SparseActivations(token_ids, ends, counted.tolist(), feature[order], position[order], values_in_order)


def counted_tokens(model: LanguageModel, token_ids: list[int]) -> Bool[np.ndarray, " position"]:
    """Return False for BOS and other special tokens."""
    uncounted = model.special_token_ids | {model.bos_token_id}
    return np.array([token_id not in uncounted for token_id in token_ids])


def _round_to_float32_digits(values: Float[np.ndarray, " value"]) -> Float64[np.ndarray, " value"]:
    """Round nonzero values to the 7 digits that a float32 holds; as doubles they would be written with 17."""
    doubles = values.astype(np.float64)
    decimals = 6 - np.floor(np.log10(np.abs(doubles))).astype(int)
    scale = 10.0 ** np.abs(decimals)  # below 10^23 exact, so that the quotient is the double nearest to the decimals
    rounded: Float64[np.ndarray, " value"] = np.where(
        decimals >= 0, np.rint(doubles * scale) / scale, np.rint(doubles / scale) * scale
    )
    return rounded


def _is_out_of_memory(error: Exception) -> bool:
    """True if the allocator failed: CUDA has a class for it, the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
