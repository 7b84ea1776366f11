"""Saved edits: interventions with their evidence."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.problems import documented
from app.queries import edits as queries
from app.queries.edits import EditView
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.edits import (
    MAX_INTERVENTIONS,
    MAX_NOTES,
    MAX_PROMPTS,
    Checks,
    Draft,
    EditIntervention,
    EditPrompt,
    change_edit,
    delete_edit,
    edit_file,
    find_edit,
    save_edit,
)
from app.services.labels import MAX_NAME
from app.services.saes import find_sae
from app.web.dependencies import Actor, AppSettings, BeforeId, Inference, Session, Submitter

router = APIRouter(prefix="/api/v1/edits", tags=["Edits"])

_DEFAULT_LIMIT = 50

Name = Annotated[str, Path(description="Name of the edit, as in its address.", examples=["paris-is-in-italy"])]
Notes = Annotated[str, Field(description=f"Up to {MAX_NOTES:,} characters.")]


class EditTextIn(BaseModel):
    """The fields of an edit that may change."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(description=f"1 to {MAX_NAME} characters.", examples=["Paris is in Italy"])]
    notes: Notes = ""
    checks: Checks = Checks()


class EditIn(EditTextIn):
    """An edit to save."""

    sae: Annotated[str, Field(description="Slug of the SAE.", examples=["smollm2-135m-l9-batchtopk-4096"])]
    interventions: Annotated[list[EditIntervention], Field(min_length=1, max_length=MAX_INTERVENTIONS)]
    prompts: Annotated[list[EditPrompt], Field(max_length=MAX_PROMPTS, description="With what the model writes.")] = []
    author: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_NAME, description="The author; by default the setting SEESAE_AUTHOR."),
    ] = None


class EditSummaryOut(BaseModel):
    """An edit in the list of all."""

    name: Annotated[str, Field(description="Its page is /edits/{name}. It never changes.")]
    title: str
    author: str
    model: str
    saes: Annotated[list[str], Field(description="The SAEs of its interventions, also those that were deleted.")]
    interventions: list[dict[str, Any]]
    measured_at: datetime | None
    created_at: datetime


class EditOut(EditSummaryOut):
    """An edit with its evidence."""

    notes: str
    prompts: list[EditPrompt]
    checks: Checks
    measured: Annotated[
        dict[str, Any] | None,
        Field(description="Side effects, as docs/editing.md describes them; null until `seesae measure-edit` ran."),
    ]
    run: Annotated[int | None, Field(description="The run that measured it, while it is listed.")]


class Edits(BaseModel):
    """One page of edits, newest first."""

    edits: list[EditSummaryOut]
    next_cursor: str | None


class EditFileOut(BaseModel):
    """The file of an edit. It holds all vectors, as float32 in base64; docs/editing.md describes it."""

    model_config = ConfigDict(extra="allow")

    format: str
    name: str
    model: str
    model_sha256: Annotated[str, Field(description="Hash of the model's weights.")]
    saes: Annotated[dict[str, str], Field(description="Hashes of the SAEs' weights, by slug.")]
    special_token_ids: list[int]
    sites: list[dict[str, Any]]
    evidence: Annotated[dict[str, Any], Field(description="Prompts, checks and what was measured.")]


class MeasureOut(BaseModel):
    """The run that measures an edit."""

    run: int
    state: str


@router.post("", summary="Save an edit", status_code=201, responses=documented(404, 409, 413))
async def post_edit(body: EditIn, session: Session, inference: Inference, actor: Actor, response: Response) -> EditOut:
    """Save interventions under a name that is made from the title. `Location` is its address.

    What is saved holds all vectors that it takes: it outlives its SAEs.
    """
    sae = await find_sae(session, body.sae)
    draft = Draft(
        title=body.title,
        interventions=body.interventions,
        prompts=body.prompts,
        checks=body.checks,
        notes=body.notes,
    )
    made = await save_edit(session, inference, sae, draft, actor=actor.named(body.author))
    response.headers["Location"] = f"{router.prefix}/{made.name}"
    return _out(made)


@router.get("", summary="All edits", responses=documented(404))
async def get_edits(
    session: Session,
    sae: Annotated[str | None, Query(description="Only edits of features of this SAE.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = _DEFAULT_LIMIT,
    cursor: BeforeId = None,
) -> Edits:
    """Return edits, newest first."""
    sae_id = None if sae is None else (await find_sae(session, sae)).id
    found, following = await queries.list_edits(session, limit=limit, before=cursor, sae_id=sae_id)
    edits = [EditSummaryOut(**_summary(edit)) for edit in found]
    return Edits(edits=edits, next_cursor=str(following) if following else None)


@router.get("/{name}", summary="One edit", responses=documented(404))
async def get_edit(name: Name, session: Session) -> EditOut:
    """Return an edit: what it does, its prompts and what was measured."""
    return _out(await find_edit(session, name))


@router.get("/{name}/download", summary="Download an edit", responses=documented(404))
async def download(name: Name, session: Session, response: Response) -> EditFileOut:
    """Return the file that `sae_core.apply_edits` and `seesae export-model` read, vectors and hashes included."""
    edit = await find_edit(session, name)
    response.headers["Content-Disposition"] = f'attachment; filename="{edit.name}.json"'
    return EditFileOut.model_validate(await edit_file(session, edit))


@router.put("/{name}", summary="Change an edit's notes and checks", responses=documented(403, 404))
async def put_edit(name: Name, body: EditTextIn, session: Session, actor: Actor) -> EditOut:
    """Replace title, notes and checks. What the edit does stays, and so does its address."""
    changed = await change_edit(session, name, actor=actor, title=body.title, notes=body.notes, checks=body.checks)
    return _out(changed)


@router.delete("/{name}", summary="Delete an edit", status_code=204, responses=documented(403, 404))
async def remove_edit(name: Name, session: Session, actor: Actor) -> None:
    """Delete an edit permanently."""
    await delete_edit(session, name, actor=actor)


@router.post("/{name}/measure", summary="Measure an edit", status_code=202, responses=documented(404, 409))
async def measure(
    name: Name, session: Session, settings: AppSettings, actor: Submitter, response: Response
) -> MeasureOut:
    """Queue a run that measures what the edit changes besides, with the default settings; `Location` is the run."""
    spec = spec_of("measure-edit")
    run = await request_run(session, spec, parse_params(spec, {"edit": name}), settings=settings, actor=actor)
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return MeasureOut(run=run.id, state=run.state)


def _summary(edit: EditView) -> dict[str, Any]:
    return {
        "name": edit.name,
        "title": edit.title,
        "author": edit.author,
        "model": edit.model.name,
        "saes": [sae.slug for sae in edit.saes],
        "interventions": list(edit.interventions),
        "measured_at": edit.measured_at,
        "created_at": edit.created_at,
    }


def _out(edit: EditView) -> EditOut:
    return EditOut(
        **_summary(edit),
        notes=edit.notes,
        prompts=[EditPrompt.model_validate(prompt) for prompt in edit.prompts],
        checks=Checks.model_validate(edit.checks),
        measured=None if edit.measured is None else dict(edit.measured),
        run=edit.run_id,
    )
