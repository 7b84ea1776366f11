"""The texts of an audit: a set that is there, a built-in one that is added when it is first used, or a file."""

from app.queries.text_sets import TextItem, TextSetView, list_texts
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.audit_results import BUILT_IN_SETS
from app.services.audits import check_auditable
from app.services.text_sets import find_text_set
from sae_core.auditing import MeasureName


async def audited_texts(run: RunContext, ctx: JobContext, on: str) -> tuple[TextSetView, list[TextItem]]:
    """Return a set and its texts.

    Raises:
        NotFound: there is no such set.
        Unprocessable: it has too few pairs.
    """
    async with ctx.sessions() as session:
        view = await find_text_set(session, on)
        check_auditable(view)
        return view, await list_texts(session, view.id)


def measure_name(view: TextSetView) -> MeasureName:
    """Return how a set is measured: a built-in one by its own measure, others by their pairs, or else their groups."""
    if view.name in BUILT_IN_SETS:
        return view.name  # type: ignore[return-value]  # its measure has its name
    return "pairs" if view.counts.pairs else "groups"
