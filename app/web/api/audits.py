"""Bias audits: what a run found on pairs of texts."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from app.problems import documented
from app.queries import audits as queries
from app.queries.audits import AuditSummary
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.audit_files import pairs_csv
from app.services.audit_results import AuditResult
from app.services.audits import delete_audit, find_audit, raw_values
from app.services.saes import find_sae
from app.web.components.audit_summary import summary
from app.web.components.audit_view import audit_page, audit_report, limits
from app.web.dependencies import Actor, AppSettings, BeforeId, Session, Submitter
from app.web.reports import report

router = APIRouter(prefix="/api/v1/audits", tags=["Audits"])

_DEFAULT_LIMIT = 50

Id = Annotated[int, Path(description="Number of the audit, as in its address.", examples=[1])]


class AuditIn(BaseModel):
    """What to audit: the parameters of `seesae audit`, of which two are needed."""

    model_config = ConfigDict(extra="forbid")

    sae: Annotated[str, Field(description="Slug of the SAE.", examples=["smollm2-135m-l9-batchtopk-4096"])]
    on: Annotated[
        str,
        Field(description="`crows-pairs`, `winobias`, `stereoset`, `bbq`, or a text set.", examples=["crows-pairs"]),
    ]
    features: Annotated[
        list[int] | None, Field(description="Features to ablate; by default those that differ most on one half.")
    ] = None
    pairs: Annotated[int | None, Field(description="Most pairs to measure; by default all.")] = None


class StartedOut(BaseModel):
    """A run that was queued."""

    run: int
    state: str


class AuditSummaryOut(BaseModel):
    """An audit in the list of all."""

    id: Annotated[int, Field(description="Its page is /audits/{id}.")]
    sae: Annotated[str, Field(description="The SAE, also one that was deleted.")]
    on: str
    measure: str
    score: Annotated[float, Field(description="A share of pairs from 0 to 1; one half shows no preference.")]
    interval: Annotated[tuple[float, float] | None, Field(description="Of 95 %.")]
    pairs: int
    author: str
    run: Annotated[int | None, Field(description="The run that made it, while it is listed.")]
    created_at: datetime


class AuditOut(AuditSummaryOut):
    """An audit with everything that its page shows; docs/auditing.md describes it."""

    summary: Annotated[list[str], Field(description="What was shown and what was not, in plain language.")]
    limits: list[str]
    result: AuditResult


class Audits(BaseModel):
    """One page of audits, newest first."""

    audits: list[AuditSummaryOut]
    next_cursor: str | None


@router.post("", summary="Start an audit", status_code=202, responses=documented(404, 409))
async def post_audit(
    body: AuditIn, session: Session, settings: AppSettings, actor: Submitter, response: Response
) -> StartedOut:
    """Queue a run that audits a model with an SAE; `Location` is the run, whose result names the audit."""
    spec = spec_of("audit")
    params = parse_params(spec, body.model_dump(exclude_none=True))
    run = await request_run(session, spec, params, settings=settings, actor=actor)
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return StartedOut(run=run.id, state=run.state)


@router.get("", summary="All audits", responses=documented(404))
async def get_audits(
    session: Session,
    sae: Annotated[str | None, Query(description="Only audits of this SAE.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = _DEFAULT_LIMIT,
    cursor: BeforeId = None,
) -> Audits:
    """Return audits, newest first."""
    sae_id = None if sae is None else (await find_sae(session, sae)).id
    found, following = await queries.list_audits(session, limit=limit, before=cursor, sae_id=sae_id)
    audits = [AuditSummaryOut(**_summary(audit)) for audit in found]
    return Audits(audits=audits, next_cursor=str(following) if following else None)


@router.get("/{id}", summary="One audit", responses=documented(404))
async def get_audit(id: Id, session: Session) -> AuditOut:
    """Return what an audit found: the measure, features, changes beside controls, and costs."""
    audit = await find_audit(session, id)
    result = AuditResult.model_validate(audit.result)
    return AuditOut(**_summary(audit), summary=summary(result), limits=limits(result), result=result)


@router.get(
    "/{id}/report.html",
    summary="An audit's report",
    response_class=HTMLResponse,
    responses=documented(404),
)
async def report_file(id: Id, session: Session) -> HTMLResponse:
    """Return an audit as one file that needs nothing else."""
    return report(*audit_report(await audit_page(session, await find_audit(session, id))))


@router.get(
    "/{id}/raw",
    summary="An audit's raw values",
    response_class=Response,
    responses={
        200: {"content": {kind: {"schema": {"type": "string"}} for kind in ("application/jsonl", "text/csv")}},
        **documented(404),
    },
)
async def raw(
    id: Id,
    session: Session,
    format: Annotated[
        Literal["jsonl", "csv"], Query(description="`jsonl` has everything; `csv` the scores of pairs alone.")
    ] = "jsonl",
) -> Response:
    """Return the values from which every figure can be computed again, as docs/auditing.md describes them."""
    lines = await raw_values(session, id)
    body, kind = (lines, "application/jsonl") if format == "jsonl" else (pairs_csv(lines), "text/csv")
    headers = {"Content-Disposition": f'attachment; filename="audit-{id}.{format}"'}
    return Response(body, media_type=kind, headers=headers)


@router.delete("/{id}", summary="Delete an audit", status_code=204, responses=documented(403, 404))
async def remove_audit(id: Id, session: Session, actor: Actor) -> None:
    """Delete an audit permanently."""
    await delete_audit(session, id, actor=actor)


def _summary(audit: AuditSummary) -> dict[str, Any]:
    return {
        "id": audit.id,
        "sae": audit.sae,
        "on": audit.on,
        "measure": audit.measure,
        "score": audit.score,
        "interval": audit.interval,
        "pairs": audit.pairs,
        "author": audit.owner,
        "run": audit.run_id,
        "created_at": audit.created_at,
    }
