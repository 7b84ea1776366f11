"""Labels: read all, write one's own, read the history."""

import dataclasses
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import NotFound, Unprocessable
from app.problems import documented
from app.queries import labels as queries
from app.queries.blind_tests import label_scores
from app.queries.label_sets import ensure_set
from app.queries.labels import LabelText
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import actors, label_files
from app.services.label_flow import keep_draft
from app.services.label_history import history_records
from app.services.labels import MAX_NAME, LabelConflict, save_label, undo_label
from app.web.components.blind_models import LabelScoreOut
from app.web.components.export_formats import MEDIA_TYPES, Format, serialise
from app.web.components.label_models import DraftIn, ExportedLabel, LabelOut, Score
from app.web.dependencies import Actor, FeatureIndex, Reader, Sae, Session
from app.web.errors import answer
from app.web.versions import etag, read_version

router = APIRouter(prefix="/api/v1", tags=["Labels"])

_BATCH = 1000
_FILE = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string"}} for kind in ("application/jsonl", "text/csv")},
    }
}
"""The body of an import, which is a file and not a form."""


class TestedLabel(LabelOut):
    """A label with what people scored on blind tests of it, newest first."""

    scores: list[LabelScoreOut]


class LabelList(BaseModel):
    """All labels of a feature, newest first."""

    labels: list[TestedLabel]


class LabelIn(BaseModel):
    """A label to write."""

    model_config = ConfigDict(extra="forbid")

    explanation: Annotated[str, Field(examples=["head injuries in sport"])] = ""
    set: Annotated[str, Field(description="The set that the label belongs to.")] = "default"
    categories: Annotated[list[str], Field(examples=[["medicine"]])] = []
    interpretability: Score | None = None
    confidence: Score | None = None
    cant_tell: Annotated[bool, Field(description="True if the author looked and cannot tell.")] = False
    status: Literal["draft", "submitted", "discarded"] = "submitted"
    author: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_NAME, description="The author; by default the setting SEESAE_AUTHOR."),
    ] = None


class ImportOut(BaseModel):
    """The number of rows that were written; `unchanged` are labels that were here already."""

    sets: int
    labels: int
    changed: int
    unchanged: int
    votes: int
    decisions: int
    comments: int


class RevisionOut(BaseModel):
    """One version of a label, and who made it by which act."""

    version: int
    act: str
    by: str
    status: str
    explanation: str
    categories: list[str]
    interpretability: int | None
    confidence: int | None
    cant_tell: bool
    guideline_version: int | None
    index_id: int | None
    suggestion_id: Annotated[int | None, Field(description="The machine's suggestion whose words this version has.")]
    changed_at: datetime


class History(BaseModel):
    """All versions of a label, newest first."""

    label: LabelOut
    history: list[RevisionOut]


@router.get("/saes/{sae}/features/{index}/labels", summary="Labels of a feature", responses=documented(404))
async def list_labels(sae: Sae, index: FeatureIndex, session: Session, reader: Reader) -> LabelList:
    """Return the labels of a feature, newest first: all submitted ones, and the drafts of `author`."""
    labels = await queries.list_labels(session, sae.id, index, reader=reader.reader)
    scores = await label_scores(session, [label.id for label in labels])
    return LabelList(
        labels=[
            TestedLabel(
                **LabelOut.of(label).model_dump(),
                scores=[LabelScoreOut.of(score) for score in scores.get(label.id, [])],
            )
            for label in labels
        ]
    )


@router.get(
    "/saes/{sae}/labels/export",
    summary="Download labels",
    response_class=StreamingResponse,
    responses={200: {"content": {kind.split(";")[0]: {} for kind in MEDIA_TYPES.values()}}, **documented(404)},
)
async def export_labels(sae: Sae, request: Request, format: Format = "csv") -> StreamingResponse:
    """Stream all submitted labels of an SAE, one per row: CSV, a JSON array, or JSON lines.

    CSV has the categories of a label in one cell, parted by semicolons.
    """
    return StreamingResponse(
        serialise(format, _batches(request.app.state.sessionmaker, sae)),
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="{sae.slug}-labels.{format}"'},
    )


@router.get(
    "/saes/{sae}/labels/history",
    summary="Download labels with their history",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}}}, **documented(404)},
)
async def export_history(sae: Sae, request: Request, actor: Actor) -> StreamingResponse:
    """Stream the label sets of an SAE with everything in them that you may see, as lines of JSON.

    Sets with all versions of their guidelines, labels with all versions and votes, decisions and comments. Drafts are
    left out. The import reads it without loss.
    """
    return StreamingResponse(
        _history(request.app.state.sessionmaker, sae, actor),
        media_type="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{sae.slug}-history.jsonl"'},
    )


@router.post("/saes/{sae}/labels/import", summary="Import labels", responses=documented(404, 409), openapi_extra=_FILE)
async def import_file(
    sae: Sae,
    request: Request,
    session: Session,
    actor: Actor,
    format: Annotated[label_files.Format, Query(description="What the file is.")] = "jsonl",
    other_weights: Annotated[
        bool, Query(description="Take labels of an SAE with other weights, whose features mean the same.")
    ] = False,
) -> ImportOut:
    """Write the labels of a file that are not here yet: `history.jsonl`, `labels.jsonl` or `labels.csv`.

    People become names without accounts. The same file sent twice changes nothing. A file that has a line that is not
    valid, or that contradicts a label that is here, is refused as a whole; the answer names the line.
    """
    try:
        text = (await request.body()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unprocessable("The file is not text in UTF-8.") from None
    lines = label_files.read_labels(text, format)
    done = await label_files.import_labels(session, sae, lines, actor=actor, other_weights=other_weights)
    return ImportOut.model_validate(done, from_attributes=True)


async def _history(
    sessions: async_sessionmaker[AsyncSession], sae: SaeDetail, actor: actors.Actor
) -> AsyncIterator[str]:
    async with transaction(sessions) as session:
        async for record in history_records(session, sae, reader=actor.reader):
            yield record.model_dump_json() + "\n"


@router.put("/saes/{sae}/features/{index}/labels/mine", summary="Write my label", responses=documented(404, 409))
async def put_my_label(
    sae: Sae,
    index: FeatureIndex,
    label: LabelIn,
    session: Session,
    actor: Actor,
    response: Response,
    if_match: Annotated[
        str | None,
        Header(description='The version that was read, as 3 or "3". Omit it for a first label.'),
    ] = None,
) -> LabelOut:
    """Write one's own label of a feature: one per author and set.

    `If-Match` is the version that the change is based on; without it, the label must be new. If another version is
    current, nothing is written and the answer is 409 with both texts: `current` and `submitted`. A label that reads so
    already is answered as it is, so that a request may be sent again. Only its author sees a draft.
    """
    written = await save_label(
        session,
        sae,
        index,
        actor=actor.named(label.author),
        text=LabelText(
            explanation=label.explanation,
            categories=tuple(label.categories),
            interpretability=label.interpretability,
            confidence=label.confidence,
            status=label.status,
            cant_tell=label.cant_tell,
        ),
        expected_version=None if if_match is None else read_version(if_match, "label"),
        label_set=label.set,
    )
    response.headers["ETag"] = etag(written.version)
    return LabelOut.of(written)


@router.put(
    "/saes/{sae}/features/{index}/labels/mine/draft",
    status_code=204,
    summary="Keep what I am typing",
    responses=documented(404),
)
async def keep_my_draft(sae: Sae, index: FeatureIndex, draft: DraftIn, session: Session, actor: Actor) -> None:
    """Keep an unfinished label of the default set for yourself; saving the label removes it."""
    of = await ensure_set(session, sae.id)
    await keep_draft(session, of, index, actor, draft.model_dump())


@router.get("/labels/{id}/history", summary="History of a label", responses=documented(404))
async def label_history(id: Annotated[int, Path(ge=1, le=MAX_INTEGER)], session: Session, reader: Reader) -> History:
    """Return the versions of a label, newest first: all submitted ones, and the drafts of `author`."""
    label = await queries.get_label(session, id, reader=reader.reader, with_own_discarded=True)
    if label is None:
        raise NotFound(f"Label {id} does not exist.")
    revisions = (await queries.label_histories(session, [label], reader=reader.reader)).get(id, [])
    return History(
        label=LabelOut.of(label),
        history=[RevisionOut.model_validate(revision, from_attributes=True) for revision in revisions],
    )


@router.post("/labels/{id}/undo", summary="Undo my last change of a label", responses=documented(404, 409))
async def undo_my_label(
    id: Annotated[int, Path(ge=1, le=MAX_INTEGER)],
    session: Session,
    actor: Actor,
    response: Response,
    if_match: Annotated[str, Header(description='The version whose change to undo, as 3 or "3".')],
) -> LabelOut:
    """Take back the last change of one's own label: a new version, which reads as the one before.

    A label that was written once becomes discarded. Undoing again goes further back; it takes back no undo.
    """
    undone = await undo_label(session, id, actor=actor, expected_version=read_version(if_match, "label"))
    response.headers["ETag"] = etag(undone.version)
    return LabelOut.of(undone)


async def _batches(sessions: async_sessionmaker[AsyncSession], sae: SaeDetail) -> AsyncIterator[list[ExportedLabel]]:
    """Yield the submitted labels of an SAE in batches, each read in its own transaction."""
    last = None
    while True:
        async with transaction(sessions) as session:
            labels = await queries.submitted_labels(session, sae.id, after=last, limit=_BATCH)
        if not labels:
            return
        yield [ExportedLabel.in_file(sae.slug, label) for label in labels]
        last = labels[-1]


async def answer_conflict(request: Request, error: Exception) -> Response:
    """Answer 409 with both texts, so that neither is lost."""
    assert isinstance(error, LabelConflict)
    current = LabelOut.of(error.current).model_dump(mode="json") if error.current else None
    return answer(
        request, error.status, error.title, str(error), current=current, submitted=dataclasses.asdict(error.submitted)
    )
