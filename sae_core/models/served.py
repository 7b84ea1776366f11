"""A model that vLLM runs in processes of its own, read and changed through interp-engine.

Its weights are not here, so what needs its modules or gradients is refused. What is left is what a probe, a generation
and a watched answer take: activations at hook points, and logits. Both come from interp-engine's `capture`, which runs
one whole text; logits are its `decode_residuals` of the residual stream after the last block. So the distributions are
whole, and tokens are chosen here exactly as for a model of this process. The price is a pass over the whole text for
each new token, because a capture shares no key-value cache.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from interp_engine import sync_model
from interp_engine.address import to_address
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from sae_core.errors import BackendError, ModelError, first_line
from sae_core.models.hooks import HookPoint
from sae_core.models.language_model import LanguageModel

_HELD = 16
"""Sets of changes that the workers keep, of texts that take turns; those of more are sent again."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What is done to activations in a pass, as the workers are told it."""

    sites: Sequence[Any]
    """Of `sae_core.interventions`; known again by identity."""
    content: Sequence[Mapping[str, Any]]
    """The same as JSON."""
    written: frozenset[HookPoint]
    prompt_length: int
    key: str


@dataclass(frozen=True)
class Observer:
    """What watches passes: told of each call, then of the activations at its hook points, then of the end."""

    hooks: Sequence[HookPoint]
    begin: Callable[[Mapping[str, Any]], None]
    read: Callable[[HookPoint, Float[Tensor, "position d_in"]], None]
    end: Callable[[], None]


class ReadTokens(Cache):  # type: ignore[misc]
    """The text so far, in the place of a key-value cache, and which changes were in force when its tokens were read."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.token_ids: list[int] = []
        self.runs: list[tuple[int, int, Changes]] = []
        """First position, end, and changes, of the passes that had some."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)

    def read(self, token_ids: Sequence[int], changes: Changes | None) -> None:
        """Take the tokens of a pass."""
        first = len(self.token_ids)
        self.token_ids += token_ids
        if changes is None:
            return
        if self.runs and self.runs[-1][1:] == (first, changes):
            first, *_ = self.runs.pop()
        self.runs.append((first, len(self.token_ids), changes))

    def __deepcopy__(self, _memo: Any) -> "ReadTokens":
        copied = ReadTokens()
        copied.token_ids, copied.runs = list(self.token_ids), list(self.runs)
        return copied


class ServedModel(LanguageModel):
    """A model behind interp-engine's protocol. Made by `load_model` with the backend `vllm`.

    One pass at a time: whoever uses it holds the one turn.
    """

    nbytes: int
    """Memory that its processes take."""
    failed: bool
    """True once its processes have failed: load it again."""

    def __init__(
        self,
        engine: Any,
        *,
        config: Any,
        generation_config: Any,
        name: str,
        source: str,
        weights_sha256: str,
        device: torch.device,
        dtype: str,
        longest: int,
        nbytes: int,
    ) -> None:
        """Take interp-engine's model.

        Args:
            engine: its `VLLMModel`, whose workers are `sae_core.interventions.vllm_worker`'s.
            config: the model's, of `transformers`.
            generation_config: of `transformers` too; None if the model has none.
            name: slug.
            source: what `load_model` was called with.
            weights_sha256: of the files.
            device: where activations and logits go, for SAEs that are there.
            dtype: of the weights.
            longest: most tokens of a text that its processes take.
            nbytes: memory that its processes take.
        """
        self._engine = engine
        self._sync = sync_model(engine)
        self.name, self.source, self.weights_sha256 = name, source, weights_sha256
        self.device, self.dtype, self.nbytes, self.failed = device, dtype, nbytes, False
        self._describe(engine, config.get_text_config().vocab_size, config, generation_config)
        self._changes: Changes | None = None
        self._observer: Observer | None = None
        self._made: WeakValueDictionary[tuple[int, ...], Changes] = WeakValueDictionary()
        self._known: list[Changes] = []
        self.context_length = min(self.context_length or longest, longest)
        self._run(self._sync.warmup)

    def __getattr__(self, name: str) -> Any:
        if name in ("hf_model", "_eager"):
            raise BackendError(f"{self.name} runs on vLLM, which gives neither gradients nor modules to change.")
        raise AttributeError(name)

    def close(self) -> None:
        """End its processes, which a dropped reference would leave."""
        self._sync.shutdown()

    def require_point(self, hook: HookPoint) -> None:
        """Refuse a hook point that vLLM has not in this model.

        Raises:
            BackendError: it has not.
        """
        if refused := self._engine.refuses(str(hook)):
            raise BackendError(f"vLLM has no {hook} of {self.name}: {first_line(refused)}.")

    # Activations and logits

    def activations(
        self,
        token_ids: Int[Tensor, "batch position"],
        *hooks: HookPoint,
        after_block: Callable[[], None] | None = None,
    ) -> Float[Tensor, "batch position d_in"]:
        """Return what `LanguageModel.activations` does. The pass runs to its end; `after_block` is called before it.

        Raises:
            BackendError: vLLM cannot read there.
            ModelError: the sequences are longer than the model's context, or vLLM failed.
        """
        self._require_context(token_ids.shape[1])
        rows = []
        for text in token_ids.tolist():
            if after_block is not None:
                after_block()
            found = self._capture(text, list(dict.fromkeys(hooks)), range(len(text)))
            rows.append(torch.cat([found[hook] for hook in hooks], dim=-1))
        return torch.stack(rows)

    def new_cache(self) -> Cache:
        """Return an empty text for `extend`."""
        return ReadTokens()

    def extend(
        self, token_ids: Int[Tensor, "batch position"], cache: Cache, *, last_only: bool = False
    ) -> Float[Tensor, "batch read vocab"]:
        """Return what `LanguageModel.extend` does, from a pass over the whole text. The batch is one text.

        Raises:
            BackendError: vLLM cannot read or change activations there.
            ModelError: the text is longer than the model's context, or vLLM failed.
        """
        assert isinstance(cache, ReadTokens)
        (new,) = token_ids.tolist()
        first, end = len(cache.token_ids), len(cache.token_ids) + len(new)
        self._require_context(end)
        if self._observer is not None:
            self._observer.begin({"input_ids": token_ids, "past_key_values": cache})
        cache.read(new, self._changes)
        last = HookPoint("resid_post", self.n_layers - 1)
        watched = [] if self._observer is None else list(self._observer.hooks)
        written = frozenset[HookPoint]().union(*(changes.written for _, _, changes in cache.runs))
        together = list(dict.fromkeys([last, *(hook for hook in watched if hook not in written)]))
        found = self._capture(cache.token_ids, together, range(first, end), cache.runs)
        residuals = found[last]
        for hook in watched:
            if hook in written:  # a watcher reads what is there before it is changed
                found |= self._capture(cache.token_ids, [hook], range(first, end), cache.runs, before=hook)
        if self._observer is not None:
            for hook in watched:
                self._observer.read(hook, found[hook])
            self._observer.end()
        logits: Tensor = self._run(self._sync.decode_residuals, residuals[-1:] if last_only else residuals)
        return logits.to(self.device, torch.float32)[None]

    @contextmanager
    def changed(self, changes: Changes) -> Iterator[None]:
        """Change activations in every `extend` of the body."""
        self._changes, before = changes, self._changes
        try:
            yield
        finally:
            self._changes = before

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Let `observer` watch every `extend` of the body."""
        self._observer, before = observer, self._observer
        try:
            yield
        finally:
            self._observer = before

    def changes(
        self, sites: Sequence[Any], prompt_length: int, written: frozenset[HookPoint], content: Callable[[], Any]
    ) -> Changes:
        """Return the changes of these sites: the same ones as long as a text has been read with them.

        Args:
            sites: what is done; known again by identity.
            prompt_length: tokens of the text that are its prompt.
            written: hook points that are changed.
            content: makes the sites' JSON.
        """
        key = (*map(id, sites), prompt_length)  # no id is of another site later, because the changes keep theirs
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = Changes(list(sites), content(), written, prompt_length, uuid.uuid4().hex)
        return made

    def _capture(
        self,
        token_ids: Sequence[int],
        hooks: Sequence[HookPoint],
        rows: range,
        runs: Sequence[tuple[int, int, Changes]] = (),
        before: HookPoint | None = None,
    ) -> dict[HookPoint, Float[Tensor, "position d_in"]]:
        """Return activations at these positions; those `before` the changes at a hook point leave them out."""
        for hook in hooks:
            self.require_point(hook)
        if runs:
            self._hold(list(dict.fromkeys(changes for _, _, changes in runs)))
            spared = self.special_token_ids | {self.bos_token_id}
            plan = {
                "runs": [(first, end, changes.key, changes.prompt_length) for first, end, changes in runs],
                "special": [token_id in spared for token_id in token_ids],
                "before": None if before is None else str(before),
            }
            self._rpc("plan_changes", json.dumps(plan))
        found = self._run(self._sync.capture, list(token_ids), [str(hook) for hook in hooks], rows=list(rows))
        return {hook: found[to_address(str(hook))].float().to(self.device) for hook in hooks}

    def _hold(self, needed: Sequence[Changes]) -> None:
        """Tell the workers of changes that they do not know, and drop what was needed longest ago."""
        for changes in needed:
            if changes in self._known:
                self._known.remove(changes)
            else:
                self._rpc("hold_changes", changes.key, json.dumps(changes.content))
            self._known.append(changes)
        while len(self._known) > max(_HELD, len(needed)):
            self._rpc("drop_changes", self._known.pop(0).key)

    def _rpc(self, method: str, *args: str) -> None:
        self._run(lambda: self._sync.runner.run(self._engine.engine.collective_rpc(method, args=args)))

    def _run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call interp-engine.

        Raises:
            ModelError: vLLM failed.
        """
        try:
            return function(*args, **options)
        except Exception as error:
            self.failed = True
            raise ModelError(f"vLLM failed on {self.name}: {type(error).__name__}, {first_line(error)}.") from error
