"""New runs: choose a kind, fill in its form, see what it will cost, queue it.

A form is made from the declaration of its kind's parameters. It starts with what the address gives, so that links can
fill it in: `/runs/new/index?sae=…`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries.runs import has_worker, recent_params
from app.queries.saes import list_saes
from app.runs.params import Params
from app.runs.spec import Estimate, RunSpec, spec_of, specs
from app.runs.submit import request_run
from app.settings import Settings
from app.web.components.run_form import Errors, first_values, known_names, read_params, run_form, sent_values
from app.web.dependencies import AppSettings, Session, Submitter
from app.web.parameters import checks_its_own_parameters, refuse_unknown
from app.web.rendering import render, wants_fragment

router = APIRouter()

Step = Literal["check", "queue"]


@router.get("/runs/new")
async def kinds(request: Request, session: Session, _actor: Submitter) -> HTMLResponse:
    """Show all kinds of run."""
    return render(request, "runs/new.html", {"kinds": specs(), "idle": not await has_worker(session)})


@router.get("/runs/new/{kind}")
@checks_its_own_parameters
async def new_run(
    request: Request, kind: str, session: Session, settings: AppSettings, _actor: Submitter
) -> HTMLResponse:
    """Show the form of a kind of run, filled in with the query string."""
    spec = spec_of(kind)
    refuse_unknown(request, tuple(spec.params.model_fields))
    typed = first_values(spec.params, request.query_params)
    params, _ = read_params(spec.params, typed)  # what is not typed yet is no mistake
    found = _Found() if params is None else await _check(session, settings, spec, params)
    return await _form(request, session, spec, typed, replace(found, asked=True))


@router.post("/runs/new/{kind}")
async def submit(
    request: Request,
    kind: str,
    session: Session,
    settings: AppSettings,
    actor: Submitter,
    step: Annotated[Step, Form()] = "queue",
) -> Response:
    """Queue the run, or only check it. What is wrong is answered with the form as it was sent."""
    spec = spec_of(kind)
    sent = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    typed = sent_values(spec.params, sent)
    params, errors = read_params(spec.params, typed)
    if params is None:
        found = _Found(errors=errors)
    elif step == "check":
        found = await _check(session, settings, spec, params)
    else:
        try:
            run = await request_run(session, spec, params, settings=settings, actor=actor)
        except UserError as error:
            found = _Found(problem=error)
        else:
            return RedirectResponse(f"/runs/{run.id}", status_code=303)
    if wants_fragment(request):  # a check while the form is being filled in
        found = replace(found, asked=True)
        return render(request, "runs/_check.html", {"form": run_form(spec, typed, found.errors, {}), "found": found})
    return await _form(request, session, spec, typed, found, status=found.status)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a form's values are good for: a run with an estimate, or why there can be none."""

    errors: Errors = field(default_factory=dict)
    problem: UserError | None = None
    estimate: Estimate | None = None

    asked: bool = False
    """True if nobody has sent the form: what is wrong is then no alert."""

    @property
    def status(self) -> int:
        return 422 if self.errors or self.problem else 200


async def _check(session: AsyncSession, settings: Settings, spec: RunSpec[Params], params: Params) -> _Found:
    try:
        return _Found(estimate=await spec.check(session, settings, params))
    except UserError as error:
        return _Found(problem=error)


async def _form(
    request: Request,
    session: AsyncSession,
    spec: RunSpec[Any],
    typed: Mapping[str, str],
    found: _Found,
    *,
    status: int = 200,
) -> HTMLResponse:
    known = known_names([sae.slug for sae in await list_saes(session)], await recent_params(session))
    form = run_form(spec, typed, found.errors, known)
    context = {"form": form, "found": found, "idle": not await has_worker(session)}
    return render(request, "runs/form.html", context, status=status)
