"""Label sets: the page of one, and the forms that make and change one."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries import label_flow
from app.queries import label_sets as queries
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.feature_filters import words_of
from app.services.label_sets import GuidelineText, Rules, Scope, change_set, create_set, find_label_set
from app.services.saes import find_sae
from app.tables.label_sets import ORDERS
from app.web.dependencies import Actor, Session
from app.web.rendering import render

router = APIRouter()

SetId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
ORDER_WORDS = {
    "random": "random",
    "assigned": "only those assigned to each person",
    "density": "most active first",
    "effect": "largest measured effect first",
    "fewest": "fewest labels first",
    "disagreement": "most disagreement first",
}
assert ORDER_WORDS.keys() == set(ORDERS)


@dataclass(frozen=True, slots=True)
class SetFields:
    """Fields of both forms, as a browser sends them."""

    sae: Annotated[str, Form()] = ""
    name: Annotated[str, Form()] = ""
    guideline: Annotated[str, Form()] = ""
    categories: Annotated[str, Form()] = ""
    needed: Annotated[str, Form()] = "1"
    blind: Annotated[bool, Form()] = False
    order: Annotated[str, Form()] = "random"
    scope: Annotated[str, Form()] = "any"
    filter: Annotated[str, Form()] = ""
    features: Annotated[str, Form()] = ""
    list: Annotated[str, Form()] = ""
    sample: Annotated[str, Form()] = ""
    seed: Annotated[str, Form()] = "0"
    people: Annotated[str, Form()] = ""
    guideline_version: Annotated[str, Form()] = ""

    def rules(self) -> Rules:
        """Return the rules that the form gives."""
        return Rules(self.name, _number(self.needed) or 0, self.blind, self.order)

    def guideline_text(self) -> GuidelineText:
        """Return the guideline that the form gives."""
        return GuidelineText(self.guideline, tuple(re.split(r"[,\n]", self.categories)))

    def chosen(self) -> Scope:
        """Return the scope that the form gives: of the three places, the one that is chosen counts."""
        sample, seed = _number(self.sample), _number(self.seed)
        return Scope(
            filter=words_of(self.filter) if self.scope == "filter" else None,
            features=_numbers(self.features) if self.scope == "features" else None,
            list=self.list if self.scope == "list" else None,
            sample=sample if self.sample.strip() else None,
            seed=-1 if seed is None else seed,
        )

    def names(self) -> "tuple[str, ...]":
        """Return the people who are asked to label."""
        return tuple(re.split(r"[,\n]", self.people))


def _number(text: str) -> int | None:
    """Return a whole number; None for anything else, which no rule allows."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _numbers(text: str) -> "list[int]":
    """Return the numbers of features; -1, which no SAE has, for what is not one."""
    return [number if (number := _number(part)) is not None else -1 for part in re.split(r"[\s,;]+", text) if part]


@router.get("/labelsets/new")
async def new_set(request: Request, session: Session, sae: str, filter: str = "", list: str = "") -> HTMLResponse:
    """Show the form that makes a set."""
    scope = "filter" if filter else "list" if list else "any"
    return await _form(request, session, SetFields(sae=sae, filter=filter, list=list, scope=scope))


@router.post("/labelsets")
async def make(request: Request, session: Session, actor: Actor, fields: Annotated[SetFields, Depends()]) -> Response:
    """Make a set. On an error the answer is the form as it was sent."""
    sae = await find_sae(session, fields.sae)
    try:
        made = await create_set(
            session,
            sae,
            actor=actor,
            rules=fields.rules(),
            guideline=fields.guideline_text(),
            scope=fields.chosen(),
            people=fields.names(),
        )
    except UserError as error:
        return await _form(request, session, fields, error=error)
    return RedirectResponse(f"/labelsets/{made.id}", status_code=303)


async def _form(
    request: Request, session: AsyncSession, fields: SetFields, *, error: UserError | None = None
) -> HTMLResponse:
    sae = await find_sae(session, fields.sae)
    request.state.sae = sae.slug
    context = {"sae": sae, "form": fields, "error": error, "orders": ORDER_WORDS}
    return render(request, "label_sets/new.html", context, status=error.status if error else 200)


@router.get("/labelsets/{id}")
async def label_set(request: Request, id: SetId, session: Session, actor: Actor) -> HTMLResponse:
    """Show a set: its guideline and rules, how far it is, and who is asked to label."""
    summary, sae = await find_label_set(session, id)
    request.state.sae = sae.slug
    return render(request, "label_sets/page.html", await _context(session, summary, sae, actor))


async def _context(
    session: AsyncSession, summary: queries.LabelSetSummary, sae: SaeDetail, actor: Actor
) -> dict[str, Any]:
    versions = await queries.list_guidelines(session, summary.set.id)
    return {
        "summary": summary,
        "set": summary.set,
        "sae": sae,
        "guideline": versions[0] if versions else None,
        "guidelines": versions,
        "people": await queries.list_assignments(session, summary.set.id),
        "progress": await label_flow.flow_progress(session, summary.set, actor.person_id),
        "order": ORDER_WORDS[summary.set.order],
    }


@router.get("/labelsets/{id}/edit")
async def edit(request: Request, id: SetId, session: Session) -> HTMLResponse:
    """Show the form that changes a set."""
    summary, sae = await find_label_set(session, id)
    guideline = await queries.current_guideline(session, id)
    of = summary.set
    form = SetFields(
        sae=sae.slug,
        name=of.name,
        guideline=guideline.text if guideline else "",
        categories=", ".join(guideline.categories) if guideline else "",
        needed=str(of.needed),
        blind=of.blind,
        order=of.order,
        people=", ".join(name for name, _ in await queries.list_assignments(session, id)),
        guideline_version=str(of.guideline or ""),
    )
    return _edit_form(request, summary, sae, form)


@router.post("/labelsets/{id}")
async def change(
    request: Request, id: SetId, session: Session, actor: Actor, fields: Annotated[SetFields, Depends()]
) -> Response:
    """Change a set. On an error the answer is the form as it was sent."""
    summary, sae = await find_label_set(session, id)
    before = [name for name, _ in await queries.list_assignments(session, id)]
    names = [name.strip() for name in fields.names() if name.strip()]
    try:
        await change_set(
            session,
            id,
            actor=actor,
            rules=fields.rules(),
            guideline=fields.guideline_text(),
            guideline_read=_number(fields.guideline_version),
            people=None if sorted(names) == sorted(before) else names,
        )
    except UserError as error:
        return _edit_form(request, summary, sae, fields, error=error)
    return RedirectResponse(f"/labelsets/{id}", status_code=303)


def _edit_form(
    request: Request,
    summary: queries.LabelSetSummary,
    sae: SaeDetail,
    form: SetFields,
    *,
    error: UserError | None = None,
) -> HTMLResponse:
    request.state.sae = sae.slug
    context = {"set": summary.set, "summary": summary, "sae": sae, "form": form, "error": error, "orders": ORDER_WORDS}
    return render(request, "label_sets/edit.html", context, status=error.status if error else 200)


@router.post("/labelsets/{id}/closed")
async def close(id: SetId, session: Session, actor: Actor, closed: Annotated[bool, Form()]) -> RedirectResponse:
    """Close a set, which shows everybody its labels, or open it again."""
    await change_set(session, id, actor=actor, is_closed=closed)
    return RedirectResponse(f"/labelsets/{id}", status_code=303)
