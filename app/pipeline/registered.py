"""SAEs that are registered: their rows, their weights, and what they were trained on."""

from app.errors import NoWeights
from app.pipeline.prepared_inputs import HookPair
from app.pipeline.sources import MODELS
from app.queries import runs, saes
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services import saes as services
from sae_core.checkpoints import load_sae
from sae_core.saes import SAE


async def find_sae(ctx: JobContext, slug: str) -> SaeDetail | None:
    """Return the row of an SAE, None where there is no such SAE."""
    async with ctx.sessions() as session:
        return await saes.get_sae(session, slug)


async def open_sae(ctx: JobContext, slug: str) -> tuple[SAE, SaeDetail]:
    """Load a registered SAE.

    Raises:
        NotFound: there is no such SAE.
        CheckpointError: its files cannot be read.
    """
    detail = await registered_sae(ctx, slug)
    return load_sae(ctx.artifacts.root / detail.artifact), detail


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


def model_of(detail: SaeDetail) -> str:
    """Return the model of a registered SAE as `prepare` takes it. One of `MODELS` keeps its name, and so its row."""
    return detail.model.name if detail.model.name in MODELS else detail.model.source


def hooks_of(detail: SaeDetail) -> HookPair:
    """Return the hook points of a registered SAE."""
    return HookPair.parse(detail.hook, detail.hook_out)


async def open_sae_of_run(run: RunContext, ctx: JobContext, slug: str) -> tuple[SAE, SaeDetail]:
    """Load the SAE that a run is about, and note it in the run's row; raises as `open_sae`."""
    sae, detail = await open_sae(ctx, slug)
    async with ctx.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, detail.id)
    return sae, detail
