"""Runs by number."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.queries import runs
from app.queries.runs import RunView


async def find_run(session: AsyncSession, run_id: int) -> RunView:
    """Return a run.

    Raises:
        NotFound: there is no such run.
    """
    run = await runs.get_run(session, run_id)
    if run is None:
        raise NotFound(f"Run {run_id} does not exist. The list of runs shows all of them.")
    return run
