"""Remaining time of a run: from the speed of the stage that runs, and the forecast of those that wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.queries.runs import Stage

_LEAST_SECONDS = 5.0
"""A stage that took less says nothing of the speed of others."""
_TRUSTED_SHARE = 0.2
"""Once so much of a stage is done, and of the time that was expected, only its own speed counts."""
_FORWARD, _PUBLISH = "activations", "publish"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Speed and remaining time of a run that is under way."""

    tokens_per_second: float
    """That the model reads here."""
    seconds: float
    """Until the run is done."""
    features: float | None
    """Seconds until the site shows the features; None where the run makes no index, or the site shows them already."""

    @property
    def text(self) -> str:
        """Both in words."""
        speed = f"This machine runs the model at {self.tokens_per_second:,.0f} tokens/s."
        if self.features is None:
            return f"{speed} About {roughly(self.seconds)} left."
        return (
            f"{speed} The features are here in about {roughly(self.features)}, all is done in {roughly(self.seconds)}."
        )


def forecast(stages: "Sequence[Stage]") -> Forecast | None:
    """Return how long a run takes from now; None before its speed is known, or where a stage's length is not."""
    names = [stage.name for stage in stages]
    pace = _pace(stages)
    left = [seconds_left(stage, pace) for stage in stages]
    speed = next((_speed(stage) for stage in stages if stage.name == _FORWARD), None)
    known = [seconds for seconds in left if seconds is not None]
    if speed is None or len(known) < len(left) or all(stage.state == "done" for stage in stages):
        return None
    published = names.index(_PUBLISH) if _PUBLISH in names else None
    waits = published is not None and stages[published].state != "done"
    return Forecast(speed, sum(known), sum(known[: published + 1]) if published is not None and waits else None)


def roughly(seconds: float) -> str:
    """Return a time as precisely as it can be foreseen: 40 s, 2 min 30 s, 25 min, 3.5 h."""
    if seconds < 57.5:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 570:
        halves = round(seconds / 30)
        return f"{halves // 2} min" + (" 30 s" if halves % 2 else "")
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_left(stage: "Stage", pace: float = 1.0) -> float | None:
    """Return how long a stage still takes, None if nothing is known of it.

    The more of it is done, and of the time that was expected, the more its own speed counts: a training's first steps
    come after its start values, and an evaluation begins with what is quick. `pace` is the time that earlier stages
    took for each second that was expected of them.
    """
    if stage.state == "done":
        return 0.0
    share = _share(stage)
    own = stage.seconds / share if share else None
    expected = None if stage.expected is None else pace * stage.expected
    if own is not None and expected is not None:
        weight = _trust(stage, share, expected)
        whole: float | None = weight * own + (1 - weight) * expected
    else:
        whole = expected if own is None else own
    return None if whole is None else max(0.0, whole - stage.seconds)


def _trust(stage: "Stage", share: float, expected: float) -> float:
    """Return how much a stage's own speed counts beside what was expected, 0 to 1."""
    return min(share, stage.seconds / max(expected, 1e-9), _TRUSTED_SHARE) / _TRUSTED_SHARE


def _share(stage: "Stage") -> float:
    """Return how much of a running stage is done; 0 where that says nothing of its speed."""
    return stage.done / stage.total if stage.state == "running" and stage.total and stage.seconds else 0.0


def _pace(stages: "Sequence[Stage]") -> float:
    """Return the seconds that stages took, or will, for each second that was expected; 1 while none is known.

    A stage that was done within moments found its work done, and says nothing.
    """
    taken = expected = 0.0
    for stage in stages:
        share = 1.0 if stage.state == "done" else _share(stage)
        trusted = stage.state == "done" or _trust(stage, share, stage.expected or 0.0) == 1
        if stage.expected and share and trusted and stage.seconds >= _LEAST_SECONDS:
            taken += stage.seconds / share
            expected += stage.expected
    return taken / expected if expected else 1.0


def _speed(stage: "Stage") -> float | None:
    """Return what a stage does per second; before it has begun, what is expected of it."""
    if stage.done and stage.seconds >= _LEAST_SECONDS:
        return stage.done / stage.seconds
    return stage.total / stage.expected if stage.total and stage.expected else None
