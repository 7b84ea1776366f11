"""People's lists: all of them, one with its features, and the form on a feature's page that adds to one.

Without JavaScript each change ends with a redirect. For htmx the answer is the changed part: the heading, the rows, one
feature with its note, or a button that restores a removed feature.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden, NotFound, Unprocessable, UserError
from app.queries import lists as queries
from app.queries.lists import ListedFeature, ListItem, ListView
from app.queries.sql.paging import one_page
from app.services.lists import (
    MAX_ITEMS,
    MAX_KEY,
    ListConflict,
    ListText,
    NewItem,
    add_item,
    create_list,
    delete_list,
    describe_list,
    find_list,
    move_item,
    remove_item,
    write_note,
)
from app.web.components import example_lines, glossary
from app.web.components.export_formats import Format
from app.web.components.list_panel import AddForm, lists_panel
from app.web.dependencies import Actor, BeforeId, FeatureIndex, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

_LISTS_PER_PAGE = 50
_FEATURES_PER_PAGE = 100

Text = Annotated[str, Form()]
Number = Annotated[int, Form()]
FormKey = Annotated[str, Form(max_length=MAX_KEY)]
"""Random text of the form that makes a list, so that a double click makes one."""


@dataclass(frozen=True, slots=True)
class NewListForm:
    """Values of the form for a new list with `features` of `sae`; `error` is the reason why it was not created."""

    name: str = ""
    description: str = ""
    sae: str = ""
    features: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class TextForm:
    """Values of the form for name and description; with `conflict`, the list's text changed in the meantime."""

    name: str
    description: str
    error: str = ""
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class NoteForm:
    """Values of a note's form; with `conflict` the note changed in the meantime, with `gone` the feature is gone."""

    note: str
    error: str = ""
    conflict: bool = False
    gone: bool = False
    saved: bool = False


@dataclass(frozen=True, slots=True)
class ListRow:
    """A feature of a list as a row; `error` is the reason why it was not removed."""

    listed: ListedFeature
    line: example_lines.Line | None
    health: Mapping[str, str]
    form: NoteForm
    error: str = ""

    @property
    def item(self) -> ListItem:
        """The feature's entry in the list."""
        return self.listed.item


# --- all lists ---------------------------------------------------------------------------------------------------


@router.get("/lists")
async def all_lists(request: Request, session: Session, actor: Actor, before: BeforeId = None) -> HTMLResponse:
    """Show all lists, newest first, and the form of a new one."""
    return await _all(request, session, NewListForm(), before=before)


@router.post("/lists")
async def make(
    request: Request,
    session: Session,
    actor: Actor,
    name: Text = "",
    description: Text = "",
    sae: Text = "",
    features: Text = "",
    key: FormKey = "",
) -> Response:
    """Create a list, optionally with features of an SAE. On an error the answer is the form as it was sent."""
    try:
        items = [NewItem(sae, number) for number in _numbers(features)]
        made = await create_list(session, ListText(name, description), items, actor=actor, key=key)
    except UserError as error:
        form = NewListForm(name, description, sae, features, str(error))
        return await _all(request, session, form, status=error.status)
    return RedirectResponse(f"/lists/{made.public_id}", status_code=303)


def _numbers(text: str) -> list[int]:
    """Return the distinct numbers of a text, separated by commas or blanks, in order.

    Raises:
        Unprocessable: a word is not a number, or there are more than a list can hold.
    """
    words = dict.fromkeys(filter(None, re.split(r"[\s,]+", text)))
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise Unprocessable(f"“{word[:40]}” is not the number of a feature: give numbers with commas between them.")
    numbers = list(dict.fromkeys(map(int, words)))
    if len(numbers) > MAX_ITEMS:
        raise Unprocessable(f"A list holds at most {MAX_ITEMS:,} features; these are {len(numbers):,}.")
    return numbers


async def _all(
    request: Request, session: AsyncSession, form: NewListForm, *, before: int | None = None, status: int = 200
) -> HTMLResponse:
    found, following = await queries.list_lists(session, limit=_LISTS_PER_PAGE, before=before)
    context = {
        "lists": found,
        "more": f"/lists?before={following}" if following else None,
        "before": before,
        "form": form,
    }
    return render(request, "lists/all.html", context, status=status)


# --- one list ----------------------------------------------------------------------------------------------------


@router.get("/lists/{id}")
async def one_list(request: Request, id: str, session: Session, after: int = 0) -> HTMLResponse:
    """Show a list with its features after a position."""
    found = await find_list(session, id)
    return render(request, "lists/page.html", {**await _head(session, found), **await _rows(session, found, after)})


@router.post("/lists/{id}")
async def describe(
    request: Request, id: str, session: Session, actor: Actor, version: Number, name: Text = "", description: Text = ""
) -> Response:
    """Change name and description. On an error the answer is the form as it was sent."""
    try:
        found = await describe_list(session, id, ListText(name, description), actor=actor, read_version=version)
    except (NotFound, Forbidden):
        raise
    except UserError as error:
        conflict = isinstance(error, ListConflict)
        form = TextForm(name, description, error=str(error), conflict=conflict)
        current = await find_list(session, id)
        context = await _head(session, current, form)
        if wants_fragment(request):
            return render(request, "lists/_title.html", context, status=error.status)
        return render(request, "lists/page.html", {**context, **await _rows(session, current, 0)}, status=error.status)
    if wants_fragment(request):
        return render(request, "lists/_title.html", await _head(session, found))
    return RedirectResponse(_address(found), status_code=303)


@router.get("/lists/{id}/delete")
async def ask_to_delete(request: Request, id: str, session: Session, actor: Actor) -> HTMLResponse:
    """Ask before the list is deleted."""
    found = await find_list(session, id)
    actor.check_change(found.owner_id, "This list", found.author)
    return render(request, "lists/delete.html", {**await _head(session, found), "error": ""})


@router.post("/lists/{id}/delete")
async def delete(request: Request, id: str, session: Session, actor: Actor, version: Number) -> Response:
    """Delete the list if it has not changed since it was read."""
    try:
        await delete_list(session, id, actor=actor, expected_version=version)
    except ListConflict as changed:
        context = {**await _head(session, changed.current), "error": "The list changed since you asked to delete it."}
        return render(request, "lists/delete.html", context, status=changed.status)
    return RedirectResponse("/lists", status_code=303)


async def _head(session: AsyncSession, found: ListView, form: TextForm | None = None) -> dict[str, Any]:
    """Return the context of a list's heading."""
    [summary] = await queries.summaries(session, [found])
    return {
        "list": found,
        "summary": summary,
        "several": len(summary.saes) > 1,
        "text_form": form or TextForm(found.name, found.description),
        "downloads": [
            (format.upper(), f"/api/v1/lists/{found.public_id}/export?format={format}") for format in get_args(Format)
        ],
    }


async def _rows(session: AsyncSession, found: ListView, after: int) -> dict[str, Any]:
    """Return the context of one page of features."""
    items = await queries.list_items(session, found.id, after=after, limit=_FEATURES_PER_PAGE + 1)
    page, more = one_page(items, _FEATURES_PER_PAGE)
    return {
        "features": await _list_rows(session, page),
        "after": after,
        "more": f"/lists/{found.public_id}?after={page[-1].position}" if more else None,
        "moved_note": "",
    }


async def _list_rows(session: AsyncSession, items: Sequence[ListItem]) -> list[ListRow]:
    listed = await queries.listed(session, items)
    health = {feature.sae.id: glossary.health(feature.sae) for feature in listed}
    return [
        ListRow(
            listed=feature,
            line=example_lines.cut(feature.row.example, feature.row.max)
            if feature.row and feature.row.example
            else None,
            health=health[feature.sae.id],
            form=NoteForm(feature.item.note),
        )
        for feature in listed
    ]


# --- the features of a list --------------------------------------------------------------------------------------


@router.post("/lists/{id}/items")
async def put_in(
    request: Request,
    id: str,
    session: Session,
    actor: Actor,
    sae: Text,
    feature: Number,
    note: Text = "",
    position: Annotated[int | None, Form()] = None,
    after: Number = 0,
) -> Response:
    """Add a feature to the list, or restore it at its position."""
    found = await add_item(session, id, NewItem(sae, feature, note), actor=actor, position=position)
    if not wants_fragment(request):
        return RedirectResponse(_address(found, after, sae, feature), status_code=303)
    return await _row(request, session, found, sae, feature, after)


@router.post("/lists/{id}/note")
async def note(
    request: Request,
    id: str,
    session: Session,
    actor: Actor,
    sae: Text,
    feature: Number,
    version: Number,
    note: Text = "",
    after: Number = 0,
) -> Response:
    """Change the note of a feature. On an error the answer is the form as it was sent."""
    context: dict[str, Any] = {"sae": sae, "feature": feature, "after": after, "part": "lists/_note.html"}
    try:
        found = await write_note(session, id, sae, feature, note, actor=actor, read_version=version)
    except (NotFound, Forbidden):
        raise
    except UserError as error:
        current = await find_list(session, id)
        item = await queries.find_item(session, current.id, sae, feature)
        form = NoteForm(note, error=str(error), conflict=isinstance(error, ListConflict), gone=item is None)
        context |= {**await _head(session, current), "current": item.note if item else "", "form": form}
        template = "lists/_note.html" if wants_fragment(request) else "lists/again.html"
        return render(request, template, context, status=error.status)
    if not wants_fragment(request):
        return RedirectResponse(_address(found, after, sae, feature), status_code=303)
    item = await queries.find_item(session, found.id, sae, feature)
    written = item.note if item else ""
    context |= {**await _head(session, found), "current": written, "form": NoteForm(written, saved=True)}
    return render(request, "lists/_noted.html", context)


@router.post("/lists/{id}/move")
async def move(
    request: Request,
    id: str,
    session: Session,
    actor: Actor,
    sae: Text,
    feature: Number,
    direction: Annotated[Literal["up", "down"], Form()],
    after: Number = 0,
) -> Response:
    """Move a feature by one place. For htmx the answer is the whole page of rows."""
    found = await move_item(session, id, sae, feature, actor=actor, up=direction == "up")
    if not wants_fragment(request):
        return RedirectResponse(_address(found, after, sae, feature), status_code=303)
    context = {**await _head(session, found), **await _rows(session, found, after)}
    if all((row.item.sae, row.item.feature) != (sae, feature) for row in context["features"]):
        context["moved_note"] = (
            f"Feature {feature} is on the page {'before' if direction == 'up' else 'after'} this one now."
        )
    return render(request, "lists/_moved.html", context)


@router.get("/lists/{id}/remove")
async def ask_to_remove(
    request: Request, id: str, session: Session, sae: str, feature: int, after: int = 0, version: int = 0
) -> HTMLResponse:
    """Ask before a feature is removed: without JavaScript there is no undo.

    `version` is for htmx, which posts the same form.
    """
    return await _ask_to_remove(request, session, await find_list(session, id), sae, feature, after)


@router.post("/lists/{id}/remove")
async def remove(
    request: Request,
    id: str,
    session: Session,
    actor: Actor,
    sae: Text,
    feature: Number,
    version: Number,
    after: Number = 0,
) -> Response:
    """Remove a feature. For htmx the answer replaces its row and can restore it."""
    try:
        taken = await remove_item(session, id, sae, feature, actor=actor, read_version=version)
    except ListConflict as changed:
        if changed.item is None:
            raise
        if wants_fragment(request):
            return await _row(request, session, changed.current, sae, feature, after, refused=changed)
        return await _ask_to_remove(request, session, changed.current, sae, feature, after, refused=changed)
    found = await find_list(session, id)
    if not wants_fragment(request):
        return RedirectResponse(_address(found, after), status_code=303)
    return render(request, "lists/_removed.html", {**await _head(session, found), "item": taken, "after": after})


async def _row(
    request: Request,
    session: AsyncSession,
    found: ListView,
    sae: str,
    feature: int,
    after: int,
    *,
    refused: UserError | None = None,
) -> HTMLResponse:
    """Return one feature of a list as a row, with the error of a refused change."""
    item = await queries.find_item(session, found.id, sae, feature)
    [row] = await _list_rows(session, [item] if item else [])
    row = replace(row, error=str(refused) if refused else "")
    context = {**await _head(session, found), "row": row, "after": after}
    return render(request, "lists/_one.html", context, status=refused.status if refused else 200)


async def _ask_to_remove(
    request: Request,
    session: AsyncSession,
    found: ListView,
    sae: str,
    feature: int,
    after: int,
    *,
    refused: UserError | None = None,
) -> HTMLResponse:
    item = await queries.find_item(session, found.id, sae, feature)
    if item is None:
        raise NotFound("This feature is not in the list: it was taken out already, or the link is wrong.")
    context = {"list": found, "item": item, "after": after, "error": str(refused) if refused else ""}
    return render(request, "lists/remove.html", context, status=refused.status if refused else 200)


def _address(found: ListView, after: int = 0, sae: str = "", feature: int = 0) -> str:
    """Return the address of a list, or of one of its features."""
    query = f"?after={after}" if after else ""
    return f"/lists/{found.public_id}{query}" + (f"#item-{quote(sae)}-{feature}" if sae else "")


# --- on a feature's page -----------------------------------------------------------------------------------------


@router.post("/saes/{sae}/features/{index}/lists")
async def add(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    actor: Actor,
    list: Text = "",
    name: Text = "",
    note: Text = "",
    key: FormKey = "",
) -> Response:
    """Add a feature to a list, or to a new one. On an error the answer is the form as it was sent."""
    item = NewItem(sae.slug, index, note)
    context: dict[str, Any] = {"sae": sae, "index": index, "part": "features/_lists.html"}
    try:
        if list:
            changed = await add_item(session, list, item, actor=actor)
        else:
            changed = await create_list(session, ListText(name), [item], actor=actor, key=key)
    except UserError as error:
        panel = await lists_panel(session, sae, index, actor)
        context["lists"] = replace(panel, form=AddForm(list, name, note, str(error)))
        template = "features/_lists.html" if wants_fragment(request) else "lists/again.html"
        return render(request, template, context, status=error.status)
    if not wants_fragment(request):
        return RedirectResponse(f"/saes/{sae.slug}/features/{index}#lists", status_code=303)
    context["lists"] = replace(await lists_panel(session, sae, index, actor), added=changed.name)
    return render(request, "features/_lists.html", context)
