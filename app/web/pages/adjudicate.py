"""Labels that differ: the list, one feature's labels side by side with votes, and a reviewer's decision beside them."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries import decisions
from app.queries.agreement import SubmittedLabel, guideline_categories, list_feature_labels
from app.queries.decisions import DecisionText
from app.queries.examples import get_examples
from app.queries.feature_list import feature_rows
from app.queries.label_sets import LabelSetView
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.actors import Actor as ActorOf
from app.services.actors import Role
from app.services.adjudication import (
    DecisionConflict,
    Disagreement,
    check_feature,
    compare_labels,
    decide,
    find_set,
    list_disagreements,
    next_to_decide,
    vote,
)
from app.services.dashboard import sees_part
from app.services.labels import SCALE
from app.web.components.example_lines import Example
from app.web.dependencies import Actor, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

_PAGE = 50
_EXAMPLES = 6
"""Examples of the feature beside its labels."""
_DECISIONS = 20
"""Earlier decisions that the page shows."""

SetId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
Feature = Annotated[int, Path(ge=0, le=MAX_INTEGER)]
Shown = Literal["open", "decided", "all"]


@dataclass(frozen=True, slots=True)
class DecisionForm:
    """Fields of the form, as a browser sends them; `error` is the reason why it was not saved."""

    explanation: str = ""
    categories: tuple[str, ...] = ()
    interpretability: int | None = None
    note: str = ""
    replaces: int | None = None
    error: str = ""
    conflict: bool = False

    @property
    def text(self) -> DecisionText:
        """Return the decision's content."""
        return DecisionText(self.explanation, self.categories, self.interpretability, self.note)


async def _form(
    explanation: Annotated[str, Form()] = "",
    categories: Annotated[list[str] | None, Form()] = None,
    interpretability: Annotated[str, Form()] = "",
    note: Annotated[str, Form()] = "",
    replaces: Annotated[str, Form()] = "",
) -> DecisionForm:
    """Return the fields. Categories come as boxes that are checked, or as one text with commas."""
    return DecisionForm(
        explanation,
        tuple(part for text in categories or () for part in text.split(",")),
        int(interpretability) if interpretability in {str(step) for step in SCALE} else None,
        note,
        int(replaces) if replaces.isdecimal() and len(replaces) < 10 else None,
    )


@router.get("/labelsets/{id}/adjudicate")
async def adjudicate(
    request: Request,
    id: SetId,
    session: Session,
    actor: Actor,
    show: Shown = "open",
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> HTMLResponse:
    """Show the features of a set whose labels differ, those that differ most first."""
    of, sae = await find_set(session, id)
    found = await list_disagreements(session, of, actor)
    shown = [entry for entry in found if _is_shown(entry, show)]
    entries = shown[_PAGE * (page - 1) : _PAGE * page]
    address = f"/labelsets/{of.id}/adjudicate?show={show}"
    context = {
        **_head(request, of, sae, actor),
        "entries": entries,
        "rows": await feature_rows(session, sae, [entry.feature for entry in entries], with_examples=False),
        "show": show,
        "choices": [(name, sum(_is_shown(entry, name) for entry in found)) for name in ("open", "decided", "all")],
        "earlier": f"{address}&page={page - 1}" if page > 1 else "",
        "more": f"{address}&page={page + 1}" if len(shown) > _PAGE * page else "",
        "partial": sees_part(of, actor),
    }
    return render(request, "agreement/differences.html", context)


def _is_shown(entry: Disagreement, show: Shown) -> bool:
    return show == "all" or (entry.state == "decided") == (show == "decided")


@router.get("/labelsets/{id}/adjudicate/next")
async def go_to_next(id: SetId, session: Session, actor: Actor, after: int = -1) -> RedirectResponse:
    """Redirect to the undecided feature that differs most, apart from `after`; to the list if there is no other."""
    of, _ = await find_set(session, id)
    following = await next_to_decide(session, of, actor, after)
    address = f"/labelsets/{of.id}/adjudicate"
    address = address if following is None else f"{address}/{following}"
    return RedirectResponse(address, status_code=303, headers={"Cache-Control": "no-store"})


@router.get("/labelsets/{id}/adjudicate/{feature}")
async def one(
    request: Request,
    id: SetId,
    feature: Feature,
    session: Session,
    actor: Actor,
    take: Annotated[int, Query(ge=0, le=MAX_INTEGER)] = 0,
) -> HTMLResponse:
    """Show a feature's labels side by side; with `take`, the decision's form holds that label's text."""
    of, sae = await find_set(session, id)
    check_feature(sae, feature)
    context = await _feature_context(request, session, of, sae, feature, actor, take=take)
    fragment = wants_fragment(request) and bool(take)
    return render(request, "agreement/_decide.html" if fragment else "agreement/feature.html", context)


@router.post("/labelsets/{id}/adjudicate/{feature}")
async def save(
    request: Request,
    id: SetId,
    feature: Feature,
    session: Session,
    actor: Actor,
    form: Annotated[DecisionForm, Depends(_form)],
) -> Response:
    """Write a decision and go to the next feature that nobody decided. On an error the form comes back as it was."""
    of, sae = await find_set(session, id)
    check_feature(sae, feature)
    try:
        await decide(session, of, sae, feature, actor=actor, text=form.text, replaces=form.replaces)
    except UserError as error:
        context = await _feature_context(request, session, of, sae, feature, actor, refused=(form, error))
        return render(request, "agreement/feature.html", context, status=error.status)
    return RedirectResponse(f"/labelsets/{of.id}/adjudicate/next?after={feature}", status_code=303)


@router.post("/labelsets/{id}/adjudicate/{feature}/votes")
async def cast_vote(
    request: Request,
    id: SetId,
    feature: Feature,
    session: Session,
    actor: Actor,
    label: Annotated[int, Form(ge=1, le=MAX_INTEGER)],
    value: Annotated[Literal["-1", "0", "1"], Form()],
) -> Response:
    """Vote on an explanation. For htmx the answer is the label's votes."""
    of, sae = await find_set(session, id)
    check_feature(sae, feature)
    voted = await vote(session, label, int(value), actor=actor)
    if not wants_fragment(request):
        return RedirectResponse(f"/labelsets/{of.id}/adjudicate/{feature}#label-{label}", status_code=303)
    return render(request, "agreement/_votes.html", {**_head(request, of, sae, actor), "label": voted})


async def _feature_context(
    request: Request,
    session: AsyncSession,
    of: LabelSetView,
    sae: SaeDetail,
    feature: int,
    actor: ActorOf,
    *,
    take: int = 0,
    refused: tuple[DecisionForm, UserError] | None = None,
) -> dict[str, Any]:
    """Return what the page of one feature shows."""
    labels = await list_feature_labels(session, of.id, feature, reader=actor.reader)
    made = await decisions.list_decisions(
        session, of.id, reader=actor.reader, feature=feature, limit=_DECISIONS, newest_first=True
    )
    compared = compare_labels(labels, made[0] if made else None)
    examples = await get_examples(session, sae, feature, band=0, limit=_EXAMPLES)
    maximum = max((example.activation for example in examples), default=0.0)
    return {
        **_head(request, of, sae, actor),
        "feature": feature,
        "row": (await feature_rows(session, sae, [feature], with_examples=False)).get(feature),
        "examples": [Example.of(example, maximum) for example in examples],
        "here": f"/saes/{sae.slug}/features/{feature}",
        "compared": compared,
        "labels": labels,
        "made": made,
        "offered": await guideline_categories(session, of.id),
        "form": _filled(labels, compared, take, refused),
        "taken": take,
        "scale": SCALE,
        "hidden": not labels and sees_part(of, actor),
    }


def _filled(
    labels: list[SubmittedLabel], compared: Disagreement, take: int, refused: tuple[DecisionForm, UserError] | None
) -> DecisionForm:
    """Return the form: as it was sent, or with the label that is taken, else with the decision that holds."""
    holds = compared.decision.id if compared.decision else None
    if refused:
        form, error = refused
        conflict = isinstance(error, DecisionConflict)
        replaces = holds if conflict else form.replaces
        return DecisionForm(*_fields(form), replaces=replaces, error=str(error), conflict=conflict)
    taken = next((label for label in labels if label.id == take), None)
    if taken is not None:
        return DecisionForm(taken.explanation, taken.categories, taken.interpretability, replaces=holds)
    return DecisionForm(*_fields(compared.decision), replaces=holds) if compared.decision else DecisionForm()


def _fields(text: Any) -> tuple[str, tuple[str, ...], int | None, str]:
    return text.explanation, text.categories, text.interpretability, text.note


def _head(request: Request, of: LabelSetView, sae: SaeDetail, actor: ActorOf) -> dict[str, Any]:
    request.state.sae = sae.slug
    return {
        "set": of,
        "sae": sae,
        "reviews": actor.role >= Role.reviewer,
        "votes": actor.role >= Role.labeller,
        "reader": actor.person_id,
    }
