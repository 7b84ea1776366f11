"""A run in a few lines, as the first page and the list of runs show it."""

from dataclasses import dataclass

from app.queries.runs import RunView, Stage
from app.runs.time_left import Forecast, forecast, seconds_left

MOST_LIVE = 3
"""Runs shown live on one page: each holds a connection, and a browser opens six per site."""


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage with its rate and the time left at that rate; None while neither can be known."""

    stage: Stage
    rate: float | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class RunCard:
    """A run in a few lines: its current stage, and that stage's number."""

    run: RunView
    current: StageView | None
    number: int

    @property
    def id(self) -> int:
        """Id of the run."""
        return self.run.id

    @property
    def forecast(self) -> Forecast | None:
        """How long it still takes; None where that is not known."""
        return forecast(self.run.stages) if self.run.state == "running" else None


def stage_view(stage: Stage) -> StageView:
    """Return a stage with its rate and the time left."""
    rate = stage.done / stage.seconds if stage.done and stage.seconds > 0 else None
    return StageView(stage, rate, seconds_left(stage) if stage.state == "running" else None)


def card(run: RunView) -> RunCard:
    """Return a run with its current stage: the running one, else the last that has begun."""
    begun = [(i, stage) for i, stage in enumerate(run.stages, 1) if stage.state != "waiting"]
    number, current = next(
        ((i, stage) for i, stage in begun if stage.state == "running"), begun[-1] if begun else (0, None)
    )
    return RunCard(run, stage_view(current) if current else None, number)


def waiting(run: RunView) -> str:
    """Return what a queued run waits for."""
    if run.queue_position is None:
        return "waiting for a worker"
    return "next in the queue" if run.queue_position == 1 else f"number {run.queue_position:,} in the queue"
