"""Saved edits: all of them, one with its evidence, and the forms that save, change, measure and delete one."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden, Unprocessable, UserError
from app.queries.edits import EditView, list_edits
from app.queries.labels import label_summaries
from app.queries.models import TokenInfo, get_tokens
from app.services.edits import (
    MAX_CHECKS,
    MAX_INTERVENTIONS,
    MAX_NOTES,
    MAX_TEXT,
    Checks,
    Draft,
    EditIntervention,
    EditPrompt,
    FactCheck,
    change_edit,
    delete_edit,
    find_edit,
    save_edit,
)
from app.services.saes import find_sae
from app.services.texts import unix_lines
from app.web.components import edit_text
from app.web.components.snippets import edit_snippet
from app.web.dependencies import Actor, BeforeId, Inference, Session, may_submit
from app.web.rendering import render

router = APIRouter()

_PER_PAGE = 50
_INTERVENTIONS = TypeAdapter(list[EditIntervention])

Text = Annotated[str, Form()]


@router.get("/edits")
async def all_edits(
    request: Request,
    session: Session,
    sae: Annotated[str | None, Query(description="Only edits of features of this SAE.")] = None,
    before: BeforeId = None,
) -> HTMLResponse:
    """Show all edits, newest first."""
    detail = None if sae is None else await find_sae(session, sae)
    found, following = await list_edits(
        session, limit=_PER_PAGE, before=before, sae_id=None if detail is None else detail.id
    )
    query = {"sae": sae} if sae else {}
    context = {
        "edits": [(edit, edit_text.change_texts(edit, {})) for edit in found],
        "sae": detail,
        "before": before,
        "more": f"/edits?{urlencode({**query, 'before': following})}" if following else None,
    }
    return render(request, "edits/list.html", context)


@router.post("/edits")
async def save(
    request: Request,
    session: Session,
    inference: Inference,
    actor: Actor,
    sae: Text = "",
    title: Text = "",
    interventions: Text = "[]",
    prompt: Text = "",
    before: Text = "",
    after: Text = "",
) -> Response:
    """Keep what a page changed under a title. On an error the answer is a form with everything that was sent."""
    texts = {"prompt": unix_lines(prompt), "before": unix_lines(before), "after": unix_lines(after)}
    try:
        draft = Draft(title=title, interventions=_interventions(interventions), prompts=_prompts(texts))
        made = await save_edit(session, inference, await find_sae(session, sae), draft, actor=actor)
    except UserError as error:
        sent = {"title": title, "sae": sae, "interventions": interventions, **texts}
        return render(request, "edits/unsaved.html", {"sent": sent, "error": error}, status=error.status)
    return RedirectResponse(f"/edits/{made.name}", status_code=303)


@router.get("/edits/{name}")
async def one_edit(request: Request, name: str, session: Session) -> HTMLResponse:
    """Show an edit."""
    return await _page(request, session, await find_edit(session, name))


@router.post("/edits/{name}")
async def change(
    request: Request,
    name: str,
    session: Session,
    actor: Actor,
    title: Text = "",
    notes: Text = "",
    prompts: Text = "",
    paraphrases: Text = "",
    neighbours: Text = "",
    control: Text = "",
) -> Response:
    """Change title, notes and checks. On an error the answer is the form as it was sent."""
    edit = await find_edit(session, name)
    sent = {"prompts": prompts, "paraphrases": paraphrases, "neighbours": neighbours, "control": control}
    try:
        await change_edit(session, name, actor=actor, title=title, notes=notes, checks=_checks(sent))
    except Forbidden:
        raise
    except UserError as error:
        return await _page(request, session, edit, error=error, sent={**sent, "title": title, "notes": notes})
    return RedirectResponse(f"/edits/{name}", status_code=303)


@router.get("/edits/{name}/delete")
async def ask_to_delete(request: Request, name: str, session: Session, actor: Actor) -> HTMLResponse:
    """Ask before an edit is deleted."""
    edit = await find_edit(session, name)
    actor.check_change(edit.owner_id, "This edit", edit.author)
    return render(request, "edits/delete.html", {"edit": edit})


@router.post("/edits/{name}/delete")
async def delete(name: str, session: Session, actor: Actor) -> Response:
    """Delete an edit."""
    await delete_edit(session, name, actor=actor)
    return RedirectResponse("/edits", status_code=303)


async def _page(
    request: Request,
    session: AsyncSession,
    edit: EditView,
    *,
    error: UserError | None = None,
    sent: dict[str, str] | None = None,
) -> HTMLResponse:
    form = {name: edit_text.facts_text(edit.checks.get(name, ())) for name in edit_text.FACTS}
    form |= {"control": "\n".join(edit.checks.get("control", ())), "title": edit.title, "notes": edit.notes}
    context = {
        "edit": edit,
        "changes": edit_text.change_texts(edit, await _labels(session, edit)),
        "gone": [sae.slug for sae in edit.saes if sae.id is None],
        "steer": _steer_link(edit),
        "snippet": edit_snippet(edit),
        "measured": edit.measured,
        "tokens": await _moved_tokens(session, edit),
        "facts": edit_text.FACTS,
        "form": {**form, **(sent or {})},
        "error": error,
        "max_notes": MAX_NOTES,
        "may_measure": may_submit(request),
    }
    return render(request, "edits/page.html", context, status=200 if error is None else error.status)


async def _moved_tokens(session: AsyncSession, edit: EditView) -> Mapping[int, TokenInfo]:
    """Return the tokens that a measurement lists."""
    text = edit.measured["text"] if edit.measured else {"gained": [], "lost": []}
    return await get_tokens(
        session, edit.model.id, {token["id"] for side in ("gained", "lost") for token in text[side]}
    )


async def _labels(session: AsyncSession, edit: EditView) -> dict[tuple[str, int], str]:
    found = {}
    for sae in edit.saes:
        features = [
            one["feature"] for one in edit.interventions if one["sae"] == sae.slug and one["feature"] is not None
        ]
        if sae.id is not None and features:
            for feature, label in (await label_summaries(session, sae.id, features)).items():
                found[sae.slug, feature] = label.explanation
    return found


def _steer_link(edit: EditView) -> str | None:
    """Return the address that does on the steering page what the edit does; None where its form cannot."""
    first = edit.interventions[0]
    fits = all(sae.id is not None for sae in edit.saes) and all(
        change["feature"] is not None
        and isinstance(change["positions"], str)
        and change["positions"] == first["positions"]
        and not change["special_tokens"]
        and change["random_direction"] is None
        for change in edit.interventions
    )
    if not fits:
        return None
    rows = [
        (name, f"{change[name]:.6g}" if name == "value" else change[name])
        for change in edit.interventions
        for name in ("sae", "feature", "op", "value")
    ]
    prompt = [("text", edit.prompts[0]["text"])] if edit.prompts else []
    return f"/saes/{edit.saes[0].slug}/steer?{urlencode([*prompt, ('positions', first['positions']), *rows])}"


def _prompts(texts: Mapping[str, str]) -> list[EditPrompt]:
    if not texts["prompt"]:
        return []
    try:
        return [EditPrompt(text=texts["prompt"], before=texts["before"], after=texts["after"])]
    except ValidationError:
        raise Unprocessable(f"A prompt and its texts may have {MAX_TEXT:,} characters each.") from None


def _interventions(text: str) -> Sequence[EditIntervention]:
    try:
        found = _INTERVENTIONS.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise Unprocessable(
            f"These interventions cannot be saved: {first['msg']}. Steer again, and save that."
        ) from None
    if len(found) > MAX_INTERVENTIONS:
        raise Unprocessable(f"An edit has 1 to {MAX_INTERVENTIONS} interventions.")
    return found


def _checks(sent: dict[str, str]) -> Checks:
    lines = {name: [line for line in unix_lines(text).split("\n") if line.strip()] for name, text in sent.items()}
    for name, own in lines.items():
        if len(own) > MAX_CHECKS:
            raise Unprocessable(f"At most {MAX_CHECKS} lines per list; {name} has {len(own)}.")
    facts = {name: [_fact(line) for line in lines[name]] for name in edit_text.FACTS}
    try:
        return Checks(control=lines["control"], **facts)
    except ValidationError:
        raise Unprocessable(f"A prompt may have {MAX_TEXT:,} characters.") from None


def _fact(line: str) -> FactCheck:
    parts: list[Any] = [part.strip() for part in line.split("|")]
    if len(parts) not in (2, 3) or not all(parts):
        raise Unprocessable(f"Write “prompt | expected | forbidden”, or “prompt | expected”, not “{line[:80]}”.")
    try:
        return FactCheck(prompt=parts[0], expected=parts[1], forbidden=parts[2] if len(parts) == 3 else None)
    except ValidationError:
        raise Unprocessable(f"This line is too long: “{line[:80]}…”.") from None
