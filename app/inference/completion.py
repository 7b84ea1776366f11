"""Continue one text for the OpenAI-compatible endpoint: watched and changed token by token, and ended by stops.

It yields None between passes of the model, where others can go in between.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from app.errors import Unprocessable
from app.inference.engine import ProbeEngine, require_same_start
from app.inference.held_text import HeldText
from app.inference.steering import check_positions, placed_sites
from app.services.inference_messages import (
    CompletionEnd,
    CompletionEvent,
    CompletionRequest,
    CompletionStart,
    CompletionToken,
    ContextExceeded,
    LiveAlert,
    Watched,
)
from sae_core.errors import MonitorError
from sae_core.interventions import Edit, Sampling, Site, Step
from sae_core.interventions.edits import edit_from_json
from sae_core.interventions.generation import Generation, read
from sae_core.interventions.served import require_possible
from sae_core.models import LanguageModel
from sae_core.monitoring import Watcher, check_model, monitor_from_json
from sae_core.readings.read import tokenize_text
from sae_core.saes import SAE

EndReason = Literal["length", "end of text", "stop", "monitor"]

_ANY_LENGTH = 10**9
"""Of a prompt, in tokens: the model's context is compared with prompt and answer together."""


def parse_edits(files: Sequence[str], names: Sequence[str]) -> list[Edit]:
    """Return saved edits from their files; one that cannot be read raises `InterventionError`."""
    return [edit_from_json(json.loads(file), name) for file, name in zip(files, names, strict=True)]


def complete(
    engine: ProbeEngine, request: CompletionRequest, edits: Sequence[Edit] = (), alert_edit: Edit | None = None
) -> Generator[CompletionEvent | None]:
    """Yield the start, then each token as its text is certain, then the end; or that the context is too short.

    Whoever calls it holds the turn while a step runs, not between steps.

    Args:
        engine: where the model is.
        request: what to write.
        edits: to apply from the start.
        alert_edit: to apply once a monitor fires.

    Raises:
        Unprocessable: an intervention makes no sense, an edit or a monitor is of another model, or the model has no
            chat format.
        TooLarge: there is not enough memory.
        Unavailable: the model or an SAE cannot be loaded, or memory ran out.
    """
    with engine.use(*request.saes) as (model, saes):
        require_same_start(request.saes, saes)
        prompt = engine.read_prompt(model, saes[0], request.text, request.chat, max_tokens=_ANY_LENGTH).token_ids
        new = _new_tokens(model, request, len(prompt))
        if isinstance(new, ContextExceeded):
            yield new
            return
        for change in request.interventions:
            check_positions(change, len(prompt), len(prompt) + new)
        for edit in (*edits, *([] if alert_edit is None else [alert_edit])):
            edit.check_model(model)
        with engine.reserve(_working_bytes(model, len(prompt), new)):
            sites = placed_sites(engine, model, saes, request.saes, request.interventions)
            sites += [site for edit in edits for site in edit.sites_on(model.device)]
            fired = [] if alert_edit is None else alert_edit.sites_on(model.device)
            require_possible(model, [*sites, *fired])
            sampling = Sampling(new, request.temperature, request.seed, top=request.top, top_p=request.top_p)
            watcher = _watcher(model, saes[0], request, len(prompt))
            text = Generation(model, prompt, sampling, sites, last_only=True)
            if watcher is not None:
                text.around = partial(watcher.watching, model)
            held = HeldText(request.stop)
            yield from _Writer(text, held, watcher, stop=request.on_alert == "stop", when_fired=fired).run()


class _Writer:
    """One answer, as it is written. With monitors a token is sent once the model has read it, and so it is scored."""

    def __init__(
        self, text: Generation, held: HeldText, watcher: Watcher | None, *, stop: bool, when_fired: Sequence[Site]
    ) -> None:
        self._text = text
        self._held = held
        self._watcher = watcher
        self._stop = stop
        self._when_fired = when_fired
        self._alerts = 0
        self._written = 0

    def run(self) -> Generator[CompletionEvent | None]:
        """Yield the start, the tokens and the end."""
        model = self._text.model
        step = self._step()
        start = self._watched()
        yield CompletionStart(prompt_tokens=len(self._text.prompt), watched=start)
        if self._filtered:
            yield from self._ended("monitor")
            return
        while True:
            self._written += 1
            if step.token_id in model.end_token_ids:
                yield from self._ended("end of text")
                return
            complete = self._text.end is not None
            token = CompletionToken(id=step.token_id, text="", log_probability=step.log_probability, top=step.top)
            if self._watcher is not None:
                step = self._read_last(step) if complete else self._step()
                token.watched = self._watched()
                if self._filtered:
                    yield from self._ended("monitor", token.watched)
                    return
            yield from self._held.add(token, _raw(model, token.id))
            if self._held.stopped or complete:
                yield from self._ended("stop" if self._held.stopped else "length")
                return
            yield None
            if self._watcher is None:
                step = self._step()

    @property
    def _filtered(self) -> bool:
        return self._stop and self._watcher is not None and self._watcher.fired()

    def _step(self) -> Step:
        """Read what has not been read, and choose the next token; an edit begins after the alert that applies it."""
        _, step = self._text.step()
        if self._when_fired and self._watcher is not None and self._watcher.fired():
            self._text.sites = [*self._text.sites, *self._when_fired]
            self._when_fired = ()
        return step

    def _read_last(self, last: Step) -> Step:
        """Read the last token too, so that the scores are those of the whole text."""
        text = self._text
        with text.around():
            read(text.model, text.cache, [last.token_id], text.sites, len(text.prompt), last_only=True)
        return last

    def _watched(self) -> Watched | None:
        """Return what the monitors found in the last pass."""
        if self._watcher is None:
            return None
        scored, new = self._watcher.scored, self._watcher.alerts[self._alerts :]
        self._alerts += len(new)
        alerts = [
            LiveAlert(
                monitor=alert.monitor,
                score=alert.score,
                threshold=alert.threshold,
                position=alert.position,
                token_id=alert.token_id,
                generated=alert.generated,
                tokens=[
                    (one.position, one.token_id, one.value)
                    for one in scored
                    if one.monitor == alert.monitor and one.position <= alert.position
                ],
            )
            for alert in new
        ]
        return Watched(scores=self._watcher.scores(), alerts=alerts)

    def _ended(self, reason: EndReason, watched: Watched | None = None) -> Iterator[CompletionEvent]:
        yield from self._held.rest()
        last = self._held.last_characters()
        yield CompletionEnd(reason=reason, text=last, tokens=self._written, watched=watched)


def _watcher(model: LanguageModel, sae: SAE, request: CompletionRequest, prompt: int) -> Watcher | None:
    """Return what watches the answer; its monitors go by the names of the request.

    Raises:
        Unprocessable: a monitor is of another model, or reads texts from another start.
    """
    if not request.monitors:
        return None
    try:
        monitors = [replace(monitor_from_json(one.file, one.name), name=one.name) for one in request.monitors]
        for monitor in monitors:
            check_model(monitor, model)
    except MonitorError as error:
        raise Unprocessable(str(error)) from error
    if other := next((one for one in monitors if one.prepend_bos != sae.prepend_bos), None):
        raise Unprocessable(
            f"The monitor {other.name} reads texts {'with' if other.prepend_bos else 'without'} BOS in front, and "
            f"{request.saes[0].slug} does not: name an SAE in `seesae.sae` that reads them alike."
        )
    text = request.text if request.chat is None else [message.model_dump() for message in request.chat]
    parts = tokenize_text(model, text, prepend_bos=sae.prepend_bos, max_tokens=prompt).parts
    return Watcher(monitors, prompt_parts=parts.tolist())


def _raw(model: LanguageModel, token_id: int) -> bytes:
    """Return the bytes of a token as an answer has them: special tokens are not text."""
    return b"" if token_id in model.special_token_ids else model.token_bytes()[token_id]


def _new_tokens(model: LanguageModel, request: CompletionRequest, prompt: int) -> int | ContextExceeded:
    """Return how many tokens to write at most."""
    if not prompt:
        raise Unprocessable("The prompt is empty: give it some text.")
    context = model.context_length or _ANY_LENGTH
    room = context - prompt
    new = min(request.max_new_tokens, room) if request.fill and room > 0 else request.max_new_tokens
    if new <= room:
        return new
    return ContextExceeded(prompt_tokens=prompt, max_new_tokens=0 if request.fill else new, context=context)


def _working_bytes(model: LanguageModel, prompt: int, new: int) -> int:
    """Estimate the memory: keys and values of each layer, a block's activations, and a few distributions."""
    cache = 2 * model.n_layers * (prompt + new) * model.d_model
    return 4 * (cache + 20 * prompt * model.d_model + 8 * model.vocab_size)
