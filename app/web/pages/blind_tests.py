"""Blind tests of labels: all of a set, one to answer, and its result."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable, UserError
from app.queries.blind_tests import list_results
from app.queries.label_sets import LabelSetView
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import actors
from app.services.blind_items import INTRUDER_SNIPPETS, BlindKind
from app.services.blind_tests import (
    OpenTest,
    answer_test,
    make_test,
    open_test,
    sae_of,
    score_votes,
    set_of,
    visible_tests,
)
from app.web.components import blind_view
from app.web.components.blind_view import ResultLine, ShownScore
from app.web.dependencies import Actor, BeforeId, Inference, Session
from app.web.rendering import render

router = APIRouter()

_PER_PAGE = 50

SetId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
TestId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


@router.get("/labelsets/{id}/tests")
async def all_tests(
    request: Request, id: SetId, session: Session, actor: Actor, before: BeforeId = None
) -> HTMLResponse:
    """Show the tests of a label set, newest first."""
    return await _all(request, session, await set_of(session, id), actor, before=before)


async def _all(
    request: Request,
    session: AsyncSession,
    label_set: LabelSetView,
    actor: actors.Actor,
    *,
    before: int | None = None,
    error: UserError | None = None,
) -> HTMLResponse:
    tests, following = await visible_tests(session, label_set, actor, before=before, limit=_PER_PAGE)
    results = await list_results(session, [test.id for test in tests])
    lines = {test.id: [ResultLine.of_test(test.kind, result) for result in results.get(test.id, [])] for test in tests}
    answered = {test.id for test in tests if any(actor.owns(result.person_id) for result in results.get(test.id, []))}
    context = {
        "set": label_set,
        "sae": await sae_of(session, label_set.sae_id),
        "tests": tests,
        "lines": lines,
        "answered": answered,
        "kinds": blind_view.KINDS,
        "following": following,
        "error": error,
    }
    return _private(render(request, "blind_tests/all.html", context, status=error.status if error else 200))


@router.post("/labelsets/{id}/tests")
async def make(
    request: Request,
    id: SetId,
    session: Session,
    actor: Actor,
    inference: Inference,
    kind: Annotated[BlindKind, Form()] = "detection",
    label: Annotated[int | None, Form(ge=1, le=MAX_INTEGER)] = None,
    feature: Annotated[int | None, Form(ge=0, le=MAX_INTEGER)] = None,
) -> Response:
    """Make a test, and open it."""
    label_set = await set_of(session, id)
    sae = await sae_of(session, label_set.sae_id)
    try:
        made = await make_test(
            session, inference, sae, label_set, actor=actor, kind=kind, label_id=label, feature=feature
        )
    except UserError as error:
        return await _all(request, session, label_set, actor, error=error)
    return RedirectResponse(f"/tests/{made.id}", status_code=303)


@router.get("/tests/{id}")
async def test(request: Request, id: TestId, session: Session, actor: Actor) -> HTMLResponse:
    """Show the questions of a test; after the reader has answered, the result."""
    return await _page(request, session, await open_test(session, id, actor))


@router.post("/tests/{id}")
async def answer(request: Request, id: TestId, session: Session, actor: Actor) -> Response:
    """Keep the answers and show the result. If some are missing, the answer is the form as it was sent."""
    sent = await request.form()
    opened = await open_test(session, id, actor)
    said = [_answer(sent.get(f"item-{number}")) for number in range(opened.test.items)]
    missing = said.count(None)
    try:
        if missing:
            raise Unprocessable(f"{missing} of {opened.test.items} are not answered yet. Answer all, then submit.")
        await answer_test(session, id, actor, [each for each in said if each is not None])
    except UserError as error:
        return await _page(request, session, opened, said=said, error=error)
    return RedirectResponse(f"/tests/{id}", status_code=303)


def _answer(sent: Any) -> int | None:
    choices = {str(choice) for choice in range(INTRUDER_SNIPPETS)}
    return int(sent) if sent in choices else None


async def _page(
    request: Request,
    session: AsyncSession,
    opened: OpenTest,
    *,
    said: list[int | None] | None = None,
    error: UserError | None = None,
) -> HTMLResponse:
    test = opened.test
    sae = await sae_of(session, test.sae_id)
    context: dict[str, Any] = {
        "test": test,
        "kind": blind_view.KINDS[test.kind],
        "asked": blind_view.ASKED[test.kind],
        "choices": range(INTRUDER_SNIPPETS),
        "lines": [ResultLine.of_test(test.kind, result) for result in opened.results],
        "why_not": opened.why_not,
        "error": error,
    }
    if opened.items:
        votes = score_votes(opened)
        context |= {
            "sae": sae,
            "why": blind_view.WHY,
            "own": ShownScore.of(test.kind, opened.own.score) if opened.own else None,
            "votes": ShownScore.of(test.kind, votes) if votes else None,
            "answered": await blind_view.answered(session, sae.model.id, opened),
        }
        return _private(render(request, "blind_tests/result.html", context))
    context["questions"] = await blind_view.questions(session, sae.model.id, opened, said or ())
    return _private(render(request, "blind_tests/page.html", context, status=error.status if error else 200))


def _private(response: HTMLResponse) -> HTMLResponse:
    """Let no cache keep the page: what it tells depends on who has answered."""
    response.headers["Cache-Control"] = "no-store"
    return response
