"""The texts of an audit: a set that is there, or a built-in one, which is added when it is first used."""

from app.errors import Conflict
from app.pipeline.builtin_sets import add_up
from app.queries.text_sets import TextItem, TextSetView, get_text_set, list_texts
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.actors import Actor
from app.services.audit_results import BUILT_IN_SETS
from app.services.audits import check_auditable
from app.services.text_sets import create_text_set, find_text_set
from sae_core.auditing import MeasureName


async def audited_texts(run: RunContext, ctx: JobContext, on: str) -> tuple[TextSetView, list[TextItem]]:
    """Return a set and its texts; a built-in one is fetched in the stage `fetch`.

    Raises:
        NotFound: there is no such set.
        Unprocessable: it has too few pairs.
        Unavailable, UserError, ArtifactError: a built-in one cannot be fetched.
    """
    async with ctx.sessions() as session:
        missing = on in BUILT_IN_SETS and await get_text_set(session, on) is None
    if missing:
        await _add(run, ctx, on)
    async with ctx.sessions() as session:
        view = await find_text_set(session, on)
        check_auditable(view)
        return view, await list_texts(session, view.id)


async def _add(run: RunContext, ctx: JobContext, name: str) -> None:
    async with run.stage("fetch") as progress:
        about, items = await run.in_thread(add_up, name, ctx.settings.home / "cache", progress)
    try:
        async with ctx.sessions.begin() as session:
            await create_text_set(session, about, items, actor=Actor(run.created_by))
    except Conflict:
        pass  # somebody else added it meanwhile


def measure_name(view: TextSetView) -> MeasureName:
    """Return how a set is measured: a built-in one by its own measure, others by their pairs, or else their groups."""
    if view.name in BUILT_IN_SETS:
        return view.name  # type: ignore[return-value]  # its measure has its name
    return "pairs" if view.counts.pairs else "groups"
