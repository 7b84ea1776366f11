"""Generation that is watched token by token, and edited once a monitor fires."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from sae_core.interventions import End, Sampling, Site, Step
from sae_core.interventions.generation import Generation, read
from sae_core.models import LanguageModel
from sae_core.monitoring.monitor import Monitor
from sae_core.monitoring.watcher import Alert, Scored, Watcher, check_model

Watched = Step | Scored | Alert | End


def generate_watched(
    model: LanguageModel,
    prompt: Sequence[int],
    monitors: Sequence[Monitor],
    sampling: Sampling | None = None,
    *,
    sites: Sequence[Site] = (),
    when_fired: Sequence[Site] = (),
    stop: bool = False,
    parts: Sequence[int] | None = None,
) -> Iterator[Watched]:
    """Generate one text; each step is one pass, and yields its scores and alerts before the token that it chose.

    The token that makes a monitor fire has been read when it does, so an edit begins with the next one. A text that is
    complete takes one pass more, which scores its last token: the scores are then those of the whole text.

    Args:
        model: the model.
        prompt: its token ids, BOS included.
        monitors: what is watched.
        sampling: how tokens are chosen.
        sites: interventions from the start.
        when_fired: interventions that are added once a monitor fires.
        stop: True to end the text then; the token of that step is not yielded.
        parts: `Part` of each token of the prompt.

    Raises:
        InterventionError: prompt and new tokens do not fit in the model's context, or the interventions do not fit it.
        ModelError: the model lacks a hook point.
        MonitorError: a monitor is of another model.
    """
    for monitor in monitors:
        check_model(monitor, model)
    watcher = Watcher(monitors, prompt_parts=parts, prompt_length=len(prompt))

    def attached() -> AbstractContextManager[None]:
        return watcher.watching(model)

    text = Generation(model, prompt, sampling or Sampling(), sites, "changed" if sites else "default", around=attached)
    seen = _Seen(watcher)
    while text.end is None:
        _, step = text.step()
        yield from seen.new()
        if watcher.fired():
            if stop:
                yield End(text.side, "stop")
                return
            if when_fired and text.side == "default":
                text.side = "changed"
            text.sites = [*sites, *when_fired]
        yield step
    if text.token_ids[-1] != model.eos_token_id:
        with attached():
            read(model, text.cache, text.token_ids[-1:], text.sites, len(prompt))
        yield from seen.new()
    yield text.end


class _Seen:
    """Tells what a watcher has found since it was last asked."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._scored = self._alerts = 0

    def new(self) -> Iterator[Scored | Alert]:
        yield from self._watcher.scored[self._scored :]
        yield from self._watcher.alerts[self._alerts :]
        self._scored, self._alerts = len(self._watcher.scored), len(self._watcher.alerts)
