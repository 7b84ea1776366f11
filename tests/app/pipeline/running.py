"""Submit a run and do it, as a command does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.pipeline.import_sae import ImportParams
from app.queries import runs
from app.queries.runs import RunView
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.runs.params import Params
from app.runs.spec import spec_of
from app.runs.submit import submit_run
from app.services.actors import Actor

EXPORTS = Path(__file__).parents[2] / "fixtures" / "neuronpedia"
"""Small exports: `saedashboard` and `release`."""


async def submit(ctx: JobContext, kind: str, params: Params) -> int:
    async with ctx.sessions.begin() as session:
        run = await submit_run(session, spec_of(kind), params, settings=ctx.settings, actor=Actor("tester"))
    return run.id


async def run_to_end(ctx: JobContext, kind: str, params: Params) -> RunView:
    run_id = await submit(ctx, kind, params)
    await execute(ctx, run_id)
    return await run_row(ctx, run_id)


async def import_statistics(ctx: JobContext, source: Path, **options: Any) -> Mapping[str, Any]:
    """Import an export of statistics; the result."""
    run = await run_to_end(ctx, "import", ImportParams(source=str(source), format="neuronpedia", **options))
    assert run.result is not None
    return run.result


async def run_row(ctx: JobContext, run_id: int) -> RunView:
    async with ctx.sessions() as session:
        run = await runs.get_run(session, run_id)
    assert run is not None
    return run
