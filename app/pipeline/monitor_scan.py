"""Score the texts of a set or a file with a monitor."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from app.pipeline.stages import SCAN
from app.runs.params import Option, Params
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class MonitorScanParams(Params):
    """A monitor, and the texts that it reads."""

    monitor: Annotated[
        str,
        Option(argument=True, label="Monitor"),
        Field(min_length=1, max_length=100, description="Name of the monitor."),
    ]
    textset: Annotated[
        str | None,
        Option(label="Text set"),
        Field(min_length=1, max_length=200, description="A text set, or the texts of one label of it as SET:LABEL."),
    ] = None
    file: Annotated[
        str | None,
        Option(path=True),
        Field(
            min_length=1,
            max_length=1000,
            description="A file instead: one text per line, .jsonl with strings or objects with “text”, or .csv.",
        ),
    ] = None

    @model_validator(mode="after")
    def _names_one(self) -> "MonitorScanParams":
        if (self.textset is None) == (self.file is None):
            raise ValueError("Give either a text set or a file.")
        return self

    @property
    def texts(self) -> str:
        """The texts in words; of a file its name alone."""
        return self.textset or (self.file or "").rpartition("/")[2]


async def check(session: "AsyncSession", settings: "Settings", params: MonitorScanParams) -> Estimate:
    """Refuse a monitor that cannot run, and texts that are not there."""
    from app.pipeline.checks import check_monitor_scan

    return await check_monitor_scan(session, params)


async def run_monitor_scan(run: "RunContext", ctx: "JobContext", params: MonitorScanParams) -> Result:
    """Score what was not scored before the run was stopped."""
    from app.pipeline.scanned_texts import scan

    return await scan(run, ctx, params)


MONITOR_SCAN = RunSpec(
    kind="monitor-scan",
    help="""Score the texts of a set or a file with a monitor, and keep its alerts.

    Each text gets the score that a check of it gives. A run that was stopped continues from where it was.

    Examples:
      seesae monitor scan toxic-text --file answers.jsonl
      seesae monitor scan toxic-text --textset imdb --queue
    """,
    params=MonitorScanParams,
    stages=lambda _params: SCAN,
    title=lambda params: f"Scan of {params.texts} with the monitor {params.monitor}",
    check=check,
    work=run_monitor_scan,
    result_order=("monitor", "texts", "alerts", "rate", "interval", "rate_calibrated", "page"),
    leads_to=("See the monitor", "/monitors/{monitor}"),
    next_step=lambda result: f"See the alerts on the site, under {result['page']}.",
    panel="",
)
