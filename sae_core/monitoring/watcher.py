"""Watch passes of a model: scores after each token, and alerts when they come.

A token is scored in the pass that reads it, so a generated one is scored while the next is chosen. Monitors read what
is at their hook point before interventions there, if these come later: one that watches a feature still sees it while
an edit ablates it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interp_engine.hooks import HookManager
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from sae_core.errors import MonitorError
from sae_core.interventions.apply import Resolve
from sae_core.interventions.tokens import PassTokens, tokens_of_pass
from sae_core.models import HookPoint, LanguageModel, ServedModel
from sae_core.models.points import find_modules, module_at
from sae_core.models.served import Observer
from sae_core.monitoring.files import load_monitor
from sae_core.monitoring.monitor import Monitor
from sae_core.monitoring.scoring import pool_of, require_width
from sae_core.monitoring.scoring import watched as is_watched
from sae_core.monitoring.streaming import RunningPool
from sae_core.readings import Part


@dataclass(frozen=True, slots=True)
class Alert:
    """A monitor's score of a text rose above its threshold; said once per monitor and text."""

    monitor: str
    row: int
    """Of the text in its batch."""
    position: int
    """Of the token after which it did, from the first of its text, padding left out."""
    token_id: int
    generated: bool
    score: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Scored:
    """A token that a monitor watches."""

    monitor: str
    row: int
    position: int
    token_id: int
    generated: bool
    value: float
    """Score of this token alone."""
    score: float
    """Score of the text up to it."""


class MonitorFired(MonitorError):
    """A monitor fired, and was to stop the model."""

    def __init__(self, alert: Alert) -> None:
        super().__init__(f"The monitor {alert.monitor!r} fired at {alert.score:.4g}, above {alert.threshold:.4g}.")
        self.alert = alert


class Watcher:
    """Monitors of the texts that a model reads; its hooks are there while `attached` is open.

    A pass with an empty key-value cache begins new texts, one per row of its batch.
    """

    def __init__(
        self,
        monitors: Sequence[Monitor],
        *,
        on_alert: Callable[[Alert], object] | None = None,
        raises: bool = False,
        prompt_parts: Sequence[int] | None = None,
        prompt_length: int | None = None,
        eos_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Take monitors.

        Args:
            monitors: with names that differ.
            on_alert: called with each alert, after the pass in which it came.
            raises: True to raise `MonitorFired` then.
            prompt_parts: `Part` of each token of the one text's prompt, BOS included. Without them the prompt is the
                user's, and what is generated the assistant's.
            prompt_length: tokens of each text that are its prompt; without it, those of a pass with an empty cache.
            eos_token_ids: tokens that end a generated text; what follows in its row is padding.

        Raises:
            MonitorError: there is none, or two have one name.
        """
        if not monitors or len({monitor.name for monitor in monitors}) < len(monitors):
            raise MonitorError("Give at least one monitor, and each a name of its own.")
        self.monitors = list(monitors)
        self.alerts: list[Alert] = []
        """Of all texts, in order."""
        self.scored: list[Scored] = []
        """Of the current texts, in order."""
        self._on_alert = on_alert
        self._raises = raises
        self._parts = prompt_parts
        self._prompt_length = len(prompt_parts) if prompt_parts is not None else prompt_length
        self._eos = eos_token_ids
        self._special = frozenset[int]().union(*(monitor.special_token_ids for monitor in monitors))
        self._by_hook: dict[HookPoint, list[int]] = {}
        for number, monitor in enumerate(monitors):
            self._by_hook.setdefault(monitor.hook, []).append(number)
        self._rows: list[_Row] = []
        self._pass: _Pass | None = None

    def fired(self, row: int = 0) -> bool:
        """Return True if a monitor has fired on the current text of this row of the batch."""
        return row < len(self._rows) and any(self._rows[row].fired)

    def scores(self, row: int = 0) -> dict[str, float]:
        """Return each monitor's score of the current text of a row so far; none of a monitor that saw no token."""
        known = self._rows[row].scores if row < len(self._rows) else []
        return {monitor.name: score for monitor, score in zip(self.monitors, known, strict=False) if score is not None}

    @property
    def stopping_criteria(self) -> StoppingCriteriaList:
        """For `model.generate`: ends each text of a batch once a monitor has fired on it."""
        return StoppingCriteriaList([_StopFired(self)])

    @contextmanager
    def watching(self, model: LanguageModel) -> Iterator[None]:
        """Watch every pass of a loaded model in the body, as `attached` does, whatever runs it."""
        if isinstance(model, ServedModel):
            with model.observed(Observer(list(self._by_hook), self._begin, self._read, self._end)):
                yield
        else:
            with self.attached(model.hf_model, model.resolve):
                yield

    @contextmanager
    def attached(self, hf_model: nn.Module, resolve: Resolve) -> Iterator[None]:
        """Watch every pass of the model in the body; the hooks are removed whatever happens there.

        Raises:
            ModelError: the model lacks a hook point.
        """
        with HookManager() as manager:
            handles = [hf_model.register_forward_pre_hook(self._begin_call, with_kwargs=True)]
            try:
                for hook in self._by_hook:
                    module, side = resolve(hook)
                    manager.read(module, lambda x, hook=hook: self._read(hook, x), point=side)
                handles.append(hf_model.register_forward_hook(lambda *_: self._end()))
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def _begin_call(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._begin({**({"input_ids": args[0]} if args else {}), **kwargs})

    def _begin(self, call: Mapping[str, Any]) -> None:
        if call.get("input_ids") is None:
            raise MonitorError("Monitors need token ids: call the model with input_ids, not inputs_embeds.")
        cache = call.get("past_key_values")
        if cache is None or int(cache.get_seq_length()) == 0:
            self._rows = [_Row(self.monitors) for _ in range(call["input_ids"].shape[0])]
            self.scored = []
        elif len(self._rows) != call["input_ids"].shape[0]:
            raise MonitorError("The batch has changed since its texts began, so monitors cannot tell which is which.")
        tokens = tokens_of_pass(call, self._special, self._prompt_length)
        self._pass = _Pass(call["input_ids"].cpu().numpy(), tokens, {})

    def _read(self, hook: HookPoint, x: Float[Tensor, "..."]) -> None:
        if self._pass is None:
            return
        flat = x.detach().reshape(-1, x.shape[-1])
        shape = self._pass.token_ids.shape
        for number in self._by_hook[hook]:
            monitor = self.monitors[number]
            require_width(monitor, x.shape[-1])
            channels = monitor.detector.channels(flat)
            self._pass.channels[number] = channels.reshape(*shape, -1).cpu().double().numpy()

    def _end(self) -> None:
        done, self._pass = self._pass, None
        if done is None:
            return
        alerts: list[Alert] = []
        for row, state in enumerate(self._rows):
            there = done.counted(row, state, self._parts, self._eos)
            for number, channels in done.channels.items():
                alerts += self._score(row, number, done, there, channels[row])
        self.alerts += alerts
        for alert in alerts:
            if self._on_alert is not None:
                self._on_alert(alert)
        if alerts and self._raises:
            raise MonitorFired(alerts[0])

    def _score(
        self, row: int, number: int, done: "_Pass", there: "_There", channels: Float[np.ndarray, "position channel"]
    ) -> list[Alert]:
        monitor, state = self.monitors[number], self._rows[row]
        places = np.flatnonzero(is_watched(there.parts, there.counted, monitor.tokens))
        if not len(places):
            return []
        values = monitor.combine(channels[places])
        running = monitor.combine(state.pools[number].extend(channels[places]))
        state.scores[number] = float(running[-1])
        for place, value, score in zip(places, values, running, strict=True):
            position, token_id = int(there.positions[place]), int(done.token_ids[row, place])
            generated = bool(there.generated[place])
            self.scored.append(Scored(monitor.name, row, position, token_id, generated, float(value), float(score)))
        above = np.flatnonzero(running > monitor.live_threshold)
        if state.fired[number] or not len(above):
            return []
        state.fired[number] = True
        first = self.scored[len(self.scored) - len(places) + int(above[0])]
        return [
            Alert(
                monitor.name, row, first.position, first.token_id, first.generated, first.score, monitor.live_threshold
            )
        ]


class _Row:
    """One text's state."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self.pools: list[RunningPool] = [pool_of(monitor) for monitor in monitors]
        self.scores: list[float | None] = [None] * len(monitors)
        self.fired = [False] * len(monitors)
        self.ended = False


@dataclass(frozen=True)
class _There:
    """The tokens of one row of a pass."""

    positions: np.ndarray
    parts: np.ndarray
    counted: Bool[np.ndarray, " position"]
    generated: Bool[np.ndarray, " position"]


@dataclass(frozen=True)
class _Pass:
    """What a pass has read so far."""

    token_ids: np.ndarray
    tokens: PassTokens
    channels: dict[int, Float[np.ndarray, "row position channel"]]

    def counted(self, row: int, state: _Row, prompt_parts: Sequence[int] | None, eos: frozenset[int]) -> _There:
        positions = self.tokens.positions[row].cpu().numpy()
        generated = self.tokens.generated[row].cpu().numpy()
        counted = (positions >= 0) & ~self.tokens.special[row].cpu().numpy() & (not state.ended)
        parts = np.where(generated, Part.ASSISTANT, Part.USER)
        if prompt_parts is not None:
            prompt = ~generated & (positions >= 0)
            parts[prompt] = np.asarray(prompt_parts)[positions[prompt]]
        state.ended |= bool(np.isin(self.token_ids[row][generated & (positions >= 0)], list(eos)).any())
        return _There(positions, parts, counted, generated)


class _StopFired(StoppingCriteria):  # type: ignore[misc]
    """Ends the texts on which a monitor has fired."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_kwargs: Any) -> torch.BoolTensor:
        """Return True for each text that has ended."""
        fired = [self._watcher.fired(row) for row in range(input_ids.shape[0])]
        return torch.tensor(fired, device=input_ids.device)  # type: ignore[return-value]


@contextmanager
def watch(
    hf_model: Any,
    monitors: Sequence[Monitor | str | Path],
    *,
    on_alert: Callable[[Alert], object] | None = None,
    raises: bool = False,
) -> Iterator[Watcher]:
    """Watch every forward pass of a plain `transformers` model in the body, `generate` included.

        model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M")
        with watch(model, ["toxic.json"], on_alert=print) as watching:
            model.generate(**inputs, stopping_criteria=watching.stopping_criteria)
        watching.scores()

    Batches and left padding are understood. Beams are not, because they change rows on the way. Tokens of a pass with
    an empty key-value cache are the prompt. The last token that is generated is never read by the model, so nothing is
    known of it.

    Args:
        hf_model: a causal language model; one of `load_model` knows the hash of its weights, which is then compared.
        monitors: monitors, or their files.
        on_alert: called with each alert as it comes.
        raises: True to raise `MonitorFired` then; `stopping_criteria` stop `generate` without an exception.

    Raises:
        MonitorError: a file is no monitor, or a monitor is of another model.
        ModelError: the model lacks a hook point.
        MonitorFired: a monitor fired, and `raises` is true.
    """
    loaded = [monitor if isinstance(monitor, Monitor) else load_monitor(monitor) for monitor in monitors]
    if isinstance(hf_model, LanguageModel):
        for monitor in loaded:
            check_model(monitor, hf_model)
        hf_model = hf_model.hf_model
    eager, name = find_modules(hf_model), type(hf_model).__name__
    ends = getattr(hf_model.generation_config, "eos_token_id", None)
    eos = frozenset[int]([ends] if isinstance(ends, int) else ends or [])
    watcher = Watcher(loaded, on_alert=on_alert, raises=raises, eos_token_ids=eos)
    with watcher.attached(hf_model, lambda hook: module_at(eager, hook, name)):
        yield watcher


def check_model(monitor: Monitor, model: LanguageModel) -> None:
    """Refuse another model than the monitor was made on.

    Raises:
        MonitorError: its weights have another hash.
    """
    if monitor.model_sha256 and model.weights_sha256 != monitor.model_sha256:
        raise MonitorError(
            f"The monitor {monitor.name!r} was made on {monitor.model_name} with other weights than {model.name} has "
            f"(SHA-256 {monitor.model_sha256[:12]}…, not {model.weights_sha256[:12]}…). Give the model that it is of."
        )
