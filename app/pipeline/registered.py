"""SAEs that are registered: their rows, their weights, and what they were trained on."""

import asyncio
from collections.abc import Sequence

from app.artifacts import weights_missing
from app.errors import Conflict, NoWeights
from app.pipeline.prepared_inputs import HookPair
from app.queries import runs, saes
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services import saes as services
from sae_core.checkpoints import load_sae, saelens
from sae_core.errors import CheckpointError
from sae_core.saes import SAE


async def find_sae(ctx: JobContext, slug: str) -> SaeDetail | None:
    """Return the row of an SAE, None where there is no such SAE."""
    async with ctx.sessions() as session:
        return await saes.get_sae(session, slug)


async def claim_name(run: RunContext, ctx: JobContext, slug: str, key: str) -> None:
    """Keep the name of an SAE for this run while it is under way; `key` is the hash of all that the SAE depends on.

    Raises:
        Conflict: another run that is under way makes another SAE of this name.
    """
    async with ctx.sessions.begin() as session:
        other = await runs.claim_sae(session, run.run_id, slug, key)
    if other is not None:
        raise Conflict(f"Run {other} is making another SAE named {slug}. Choose another `name`.")


async def open_sae(ctx: JobContext, slug: str) -> tuple[SAE, SaeDetail]:
    """Load a registered SAE.

    Raises:
        NotFound: there is no such SAE.
        CheckpointError: its files cannot be read.
    """
    detail = await registered_sae(ctx, slug)
    return await asyncio.to_thread(load_registered, ctx, detail), detail


def load_registered(ctx: JobContext, detail: SaeDetail) -> SAE:
    """Load the weights of a registered SAE. It may wait for an object store: call it in a thread.

    Raises:
        CheckpointError: they are not where they were kept, or cannot be read.
    """
    folder = ctx.artifacts.pull(ctx.artifacts.root / detail.artifact)
    if not saelens.holds_sae(folder):
        raise CheckpointError(weights_missing(detail.slug, folder))
    return load_sae(folder)


async def registered_sae(ctx: JobContext, slug: str) -> SaeDetail:
    """Return the row of an SAE that has weights.

    Raises:
        NotFound: there is no such SAE.
        NoWeights: it was imported without any.
    """
    async with ctx.sessions() as session:
        detail = await services.find_sae(session, slug)
    if not detail.has_weights:
        raise NoWeights(slug)
    return detail


def hooks_of(detail: SaeDetail) -> HookPair:
    """Return the hook points of a registered SAE."""
    return HookPair.parse(detail.hook, detail.hook_out)


async def open_sae_of_run(run: RunContext, ctx: JobContext, slug: str) -> tuple[SAE, SaeDetail]:
    """Load the SAE that a run is about, and note it in the run's row; raises as `open_sae`."""
    (opened,) = await open_saes_of_run(run, ctx, [slug])
    return opened


async def open_saes_of_run(run: RunContext, ctx: JobContext, slugs: Sequence[str]) -> list[tuple[SAE, SaeDetail]]:
    """Load the SAEs that a run is about, and note the first in the run's row; raises as `open_sae`."""
    opened = [await open_sae(ctx, slug) for slug in slugs]
    async with ctx.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, opened[0][1].id)
    return opened
