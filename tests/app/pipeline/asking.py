"""Ask for a run and do it, as a command does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.queries import runs
from app.queries.runs import RunKind, RunView, Stage
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.runs.params import ImportParams, Params
from app.runs.stages import COMPARE, EVALUATE, IMPORT, IMPORT_STATISTICS, INDEX, TRAIN
from app.runs.submit import request_run

PLANS: dict[RunKind, Sequence[Stage]] = {
    "train": TRAIN,
    "index": INDEX,
    "evaluate": EVALUATE,
    "compare": COMPARE,
    "import": IMPORT,
}
EXPORTS = Path(__file__).parents[2] / "fixtures" / "neuronpedia"
"""Small exports: `saedashboard` and `release`."""


async def ask(ctx: JobContext, kind: RunKind, params: Params) -> int:
    async with ctx.sessions.begin() as session:
        run = await request_run(session, kind=kind, title=kind, params=params, stages=PLANS[kind], created_by="tester")
    return run.id


async def do(ctx: JobContext, kind: RunKind, params: Params) -> RunView:
    run_id = await ask(ctx, kind, params)
    await execute(ctx, run_id)
    return await row(ctx, run_id)


async def bring(ctx: JobContext, source: Path, **options: Any) -> Mapping[str, Any]:
    """Import an export of statistics; the result."""
    params = ImportParams(source=str(source), format="neuronpedia", **options)
    async with ctx.sessions.begin() as session:
        run = await request_run(
            session, kind="import", title="", params=params, stages=IMPORT_STATISTICS, created_by="tester"
        )
    await execute(ctx, run.id)
    result = (await row(ctx, run.id)).result
    assert result is not None
    return result


async def row(ctx: JobContext, run_id: int) -> RunView:
    async with ctx.sessions() as session:
        run = await runs.get_run(session, run_id)
    assert run is not None
    return run
