"""Ask for a run and do it, as a command does."""

from collections.abc import Sequence

from app.jobs.execution import execute
from app.jobs.params import Params
from app.jobs.plans import COMPARE, EVALUATE, IMPORT, INDEX, TRAIN
from app.jobs.requests import request_run
from app.jobs.workshop import Workshop
from app.queries import runs
from app.queries.runs import RunKind, RunView, Stage

PLANS: dict[RunKind, Sequence[Stage]] = {
    "train": TRAIN,
    "index": INDEX,
    "evaluate": EVALUATE,
    "compare": COMPARE,
    "import": IMPORT,
}


async def ask(shop: Workshop, kind: RunKind, params: Params) -> int:
    async with shop.sessions.begin() as session:
        run = await request_run(session, kind=kind, title=kind, params=params, stages=PLANS[kind], created_by="tester")
    return run.id


async def do(shop: Workshop, kind: RunKind, params: Params) -> RunView:
    run_id = await ask(shop, kind, params)
    await execute(shop, run_id)
    return await row(shop, run_id)


async def row(shop: Workshop, run_id: int) -> RunView:
    async with shop.sessions() as session:
        run = await runs.get_run(session, run_id)
    assert run is not None
    return run
