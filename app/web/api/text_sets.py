"""Text sets: named texts with labels, groups or pairs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.problems import documented
from app.queries import text_sets as queries
from app.queries.text_sets import Split, TextItem
from app.services.builtin_sets import BUILTIN_SETS
from app.services.text_set_about import About
from app.services.text_set_files import read_rows
from app.services.text_sets import (
    MAX_ABOUT,
    MAX_DESCRIPTION,
    check_about,
    create_text_set,
    delete_text_set,
    find_text_set,
    text_set_json,
)
from app.web.components.export_formats import MEDIA_TYPES, serialise
from app.web.dependencies import Actor, BeforeId, Session

router = APIRouter(prefix="/api/v1/textsets", tags=["Text sets"])

_DEFAULT_LIMIT = 50
_BATCH = 1000
"""Texts per query of a download."""

Name = Annotated[str, Path(description="Name of the set.", examples=["crows-pairs"])]
Said = Annotated[str, Field(max_length=MAX_ABOUT)]


class TextSetOut(BaseModel):
    """A text set, without its texts."""

    name: str
    description: str
    texts: int
    labels: Annotated[dict[str, int], Field(description="How many texts have which label.")]
    groups: dict[str, int]
    splits: Annotated[dict[str, int], Field(description="Texts in train, calibration and test.")]
    pairs: int
    chats: int
    scores: int
    duplicates: Annotated[int, Field(description="Texts that repeat the words of another.")]
    shared_between_splits: Annotated[int, Field(description="Wordings that stand in more than one split.")]
    licence: str
    source: str
    url: str
    offensive: bool
    sha256: Annotated[str, Field(description="Hash of the texts with all that belongs to them.")]
    owner: str
    created_at: datetime


class BuiltInOut(BaseModel):
    """A set that comes with SeeSAE and is not here yet: a run of the kind `add-text-set` adds it."""

    name: str
    description: str
    licence: str
    source: str


class TextSets(BaseModel):
    """One page of text sets, newest first."""

    textsets: list[TextSetOut]
    built_in: list[BuiltInOut]
    next_cursor: str | None


class TextIn(BaseModel):
    """A text, or a conversation, with what it comes with; other fields are kept as they are."""

    model_config = ConfigDict(extra="allow")

    text: str | None = None
    chat: list[dict[str, str]] | None = None
    label: str | int | bool | None = None
    group: str | int | None = None
    pair: str | int | None = None
    score: float | None = None
    split: str | None = None


class TextSetIn(BaseModel):
    """A text set to make."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(examples=["reviews"], description="1 to 60 small letters, digits and hyphens.")]
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION)] = ""
    source: Said = ""
    licence: Said = ""
    url: Said = ""
    offensive: Annotated[bool, Field(description="Show the texts only after a click.")] = False
    texts: Annotated[list[TextIn], Field(min_length=1)]


class TextOut(BaseModel):
    """A text of a set."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    text: str
    label: str | None
    group: str | None
    pair: str | None
    score: float | None
    split: Split
    chat: list[dict[str, str]] | None
    fields: dict[str, Any]


class Texts(BaseModel):
    """One page of a set's texts, in order."""

    texts: list[TextOut]
    next_cursor: str | None


@router.get("", summary="All text sets", responses=documented())
async def get_text_sets(
    session: Session, limit: Annotated[int, Query(ge=1, le=200)] = _DEFAULT_LIMIT, cursor: BeforeId = None
) -> TextSets:
    """Return text sets, newest first, and the built-in ones that are not here."""
    found, following = await queries.list_text_sets(session, limit=limit, before=cursor)
    here = await queries.which_are_here(session, list(BUILTIN_SETS))
    return TextSets(
        textsets=[TextSetOut.model_validate(text_set_json(each)) for each in found],
        built_in=[
            BuiltInOut(name=name, description=about.description, licence=about.licence, source=about.source)
            for name, about in BUILTIN_SETS.items()
            if name not in here
        ],
        next_cursor=str(following) if following else None,
    )


@router.post("", summary="Make a text set", status_code=201, responses=documented(409, 413))
async def post_text_set(body: TextSetIn, session: Session, actor: Actor, response: Response) -> TextSetOut:
    """Store texts under a name. `Location` is the set's address.

    Texts without a `split` go to train (60 %), calibration (20 %) or test (20 %) by a hash of their words.
    """
    about = About(**body.model_dump(exclude={"texts"}))
    check_about(about)
    rows = ((f"text {number}", row.model_dump(exclude_unset=True)) for number, row in enumerate(body.texts))
    items = await asyncio.to_thread(read_rows, rows, body.name)
    stored = await create_text_set(session, about, items, actor=actor)
    response.headers["Location"] = f"{router.prefix}/{stored.name}"
    return TextSetOut.model_validate(text_set_json(stored))


@router.get("/{name}", summary="One text set", responses=documented(404))
async def get_text_set(name: Name, session: Session) -> TextSetOut:
    """Return what a set holds."""
    return TextSetOut.model_validate(text_set_json(await find_text_set(session, name)))


@router.get("/{name}/texts", summary="Texts of a set", responses=documented(404))
async def get_texts(
    name: Name,
    session: Session,
    label: str | None = None,
    group: str | None = None,
    split: Split | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=-1, le=2**31 - 1, description="The last number of the previous page.")] = -1,
) -> Texts:
    """Return texts in order: all, or those of a label, group or split."""
    found = await find_text_set(session, name)
    texts = await queries.list_texts(
        session, found.id, label=label, group=group, split=split, after=cursor, limit=limit + 1
    )
    more = len(texts) > limit
    shown = texts[:limit]
    return Texts(texts=list(map(_out, shown)), next_cursor=str(shown[-1].number) if more else None)


@router.get(
    "/{name}/download",
    summary="Download a text set",
    response_class=StreamingResponse,
    responses={
        200: {"content": {kind: {"schema": {"type": "string"}} for kind in ("application/jsonl", "text/csv")}},
        **documented(404),
    },
)
async def download(
    request: Request, name: Name, session: Session, format: Literal["jsonl", "csv"] = "jsonl"
) -> StreamingResponse:
    """Return all texts as JSON lines, which `seesae textset add` reads, or as CSV, which is safe for spreadsheets."""
    found = await find_text_set(session, name)
    sessions: async_sessionmaker[AsyncSession] = request.app.state.sessionmaker
    return StreamingResponse(
        serialise(format, _batches(sessions, found.id), not_in_csv=("chat", "fields")),
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="{found.name}.{format}"'},
    )


async def _batches(sessions: async_sessionmaker[AsyncSession], set_id: int) -> AsyncIterator[Sequence[TextOut]]:
    after = -1
    while True:
        async with transaction(sessions) as session:
            texts = await queries.list_texts(session, set_id, after=after, limit=_BATCH)
        if not texts:
            return
        yield list(map(_out, texts))
        after = texts[-1].number


@router.delete("/{name}", summary="Delete a text set", status_code=204, responses=documented(403, 404, 409))
async def remove_text_set(name: Name, session: Session, actor: Actor) -> None:
    """Delete a set with its texts permanently, and comparisons with them. A run under way that uses it forbids that."""
    await delete_text_set(session, name, actor=actor)


def _out(item: TextItem) -> TextOut:
    return TextOut.model_validate(item)
