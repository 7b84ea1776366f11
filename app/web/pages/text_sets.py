"""Text sets: all of them, the form of a new one, and one with its texts."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.errors import Forbidden, Unprocessable, UserError
from app.queries import text_sets as queries
from app.queries.saes import list_saes
from app.queries.text_sets import SPLITS, TextItem
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.builtin_sets import BUILTIN_SETS
from app.services.text_set_about import About
from app.services.text_set_files import FORMATS, Columns, read_file
from app.services.text_sets import check_about, create_text_set, delete_text_set, find_text_set, remarks
from app.web.dependencies import Actor, AppSettings, BeforeId, Session, Submitter
from app.web.rendering import render

router = APIRouter()

_SETS_PER_PAGE = 50
_TEXTS_PER_PAGE = 50

Text = Annotated[str, Form()]
Choice = Annotated[str, Query(max_length=500)]
Number = Annotated[int, Query(ge=-1, le=2**31 - 1)]


@router.get("/textsets")
async def all_text_sets(request: Request, session: Session, actor: Actor, before: BeforeId = None) -> HTMLResponse:
    """Show all sets, newest first, and the built-in ones that can be added."""
    found, following = await queries.list_text_sets(session, limit=_SETS_PER_PAGE, before=before)
    here = await queries.which_are_here(session, list(BUILTIN_SETS))
    context = {
        "sets": found,
        "before": before,
        "more": f"/textsets?before={following}" if following else None,
        "built_in": [about for name, about in BUILTIN_SETS.items() if name not in here],
    }
    return render(request, "text_sets/list.html", context)


@router.post("/textsets/built-in")
async def add_built_in(session: Session, settings: AppSettings, actor: Submitter, name: Text = "") -> Response:
    """Queue the run that adds a built-in set."""
    spec = spec_of("add-text-set")
    run = await request_run(session, spec, parse_params(spec, {"name": name}), settings=settings, actor=actor)
    return RedirectResponse(f"/runs/{run.id}", status_code=303)


@router.get("/textsets/new")
async def new_text_set(request: Request, actor: Actor) -> HTMLResponse:
    """Show the form that brings a file."""
    return _form(request, About(name=""), Columns())


@router.post("/textsets")
async def make(
    request: Request,
    session: Session,
    actor: Actor,
    name: Text = "",
    description: Text = "",
    source: Text = "",
    licence: Text = "",
    url: Text = "",
    offensive: Annotated[bool, Form()] = False,
    text: Text = "",
    label: Text = "",
    group: Text = "",
    pair: Text = "",
    score: Text = "",
    chat: Text = "",
    split: Text = "",
    file: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Make a set out of a file. On an error the answer is the form as it was sent."""
    about = About(
        name=name.strip(), description=description.strip(), source=source.strip(), licence=licence.strip(),
        url=url.strip(), offensive=offensive,
    )  # fmt: skip
    columns = Columns(
        text.strip() or "text", *(each.strip() or None for each in (label, group, pair, score, chat, split))
    )
    try:
        check_about(about)
        if file is None or not file.filename:
            raise Unprocessable("Choose a file first.")
        items = await asyncio.to_thread(read_file, file.file, file.filename, columns)
        stored = await create_text_set(session, about, items, actor=actor)
    except Forbidden:
        raise
    except UserError as error:
        return _form(request, about, columns, error)
    return RedirectResponse(f"/textsets/{stored.name}", status_code=303)


def _form(request: Request, about: About, columns: Columns, error: UserError | None = None) -> HTMLResponse:
    context = {"about": about, "columns": asdict(columns), "error": error, "formats": FORMATS}
    return render(request, "text_sets/new.html", context, status=error.status if error else 200)


@router.get("/textsets/{name}")
async def one_text_set(
    request: Request,
    name: str,
    session: Session,
    actor: Actor,
    label: Choice = "",
    group: Choice = "",
    split: Choice = "",
    after: Number = -1,
    show: bool = False,
) -> HTMLResponse:
    """Show a set with a page of its texts; those of an offensive set only with `show`."""
    found = await find_text_set(session, name)
    chosen = {"label": label, "group": group, "split": split}
    part = next((each for each in SPLITS if each == split), None)
    texts: list[TextItem] = []
    if show or not found.offensive:
        texts = await queries.list_texts(
            session,
            found.id,
            label=label or None,
            group=group or None,
            split=part,
            after=after,
            limit=_TEXTS_PER_PAGE + 1,
        )
    shown, more = _whole_pairs(texts)
    query = {key: value for key, value in chosen.items() if value} | ({"show": "true"} if show else {})
    context = {
        "set": found,
        "remarks": remarks(found.counts),
        "chosen": chosen,
        "pairs": [list(members) for _, members in groupby(shown, key=_pair)],
        "show": show,
        "after": after,
        "here": f"/textsets/{found.name}?{urlencode(query)}",
        "more": f"/textsets/{found.name}?{urlencode({**query, 'after': shown[-1].number})}" if more else None,
        "splits": SPLITS,
        "saes": [sae for sae in await list_saes(session) if sae.has_weights] if found.counts.texts else [],
        "may_delete": actor.may_change(found.owner_id),
    }
    return render(request, "text_sets/page.html", context)


def _pair(item: TextItem) -> tuple[str, int]:
    """Return what the texts of one pair share."""
    return ("", item.number) if item.pair is None else (item.pair, 0)


def _whole_pairs(texts: Sequence[TextItem]) -> tuple[Sequence[TextItem], bool]:
    """Return the texts of a page, and whether there are more: a pair that the page would cut goes to the next."""
    if len(texts) <= _TEXTS_PER_PAGE:
        return texts, False
    last = texts[-1].pair
    kept = [item for item in texts[:-1] if last is None or item.pair != last]
    return kept or texts[:-1], True


@router.get("/textsets/{name}/delete")
async def ask_to_delete(request: Request, name: str, session: Session, actor: Actor) -> HTMLResponse:
    """Ask before a set is deleted."""
    found = await find_text_set(session, name)
    actor.check_change(found.owner_id, "This text set", found.owner)
    return render(request, "text_sets/delete.html", {"set": found})


@router.post("/textsets/{name}/delete")
async def delete(name: str, session: Session, actor: Actor) -> Response:
    """Delete a set."""
    await delete_text_set(session, name, actor=actor)
    return RedirectResponse("/textsets", status_code=303)
