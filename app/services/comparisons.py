"""Comparisons that are being made."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.runs import RunView, list_active
from app.queries.saes import SaeDetail


async def comparing_runs(session: AsyncSession, *saes: SaeDetail) -> list[RunView]:
    """Return the runs under way that will compare these SAEs, newest first; without SAEs, those that compare any.

    A run that compares two names both. One that indexes an SAE compares it with all others on the same text.
    """
    slugs = {sae.slug for sae in saes}

    def compares(run: RunView) -> bool:
        if all(stage.name != "compare" or stage.state == "done" for stage in run.stages):
            return False
        if run.kind == "compare":
            return slugs <= {run.params.get("a"), run.params.get("b")}
        return not slugs or run.sae_slug in slugs

    return [run for run in await list_active(session) if compares(run)]
