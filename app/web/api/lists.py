"""People's lists of features: read, write, download."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.problems import documented
from app.queries import lists as queries
from app.queries.lists import ListedFeature, ListSummary, ListView
from app.services.labels import MAX_NAME as MAX_AUTHOR
from app.services.lists import (
    MAX_DESCRIPTION,
    MAX_ITEMS,
    MAX_KEY,
    MAX_NAME,
    MAX_NOTE,
    ListConflict,
    ListText,
    NewItem,
    create_list,
    delete_list,
    find_list,
    replace_list,
)
from app.web.components.export_formats import MEDIA_TYPES, Format, serialise
from app.web.components.token_models import TopTokenOut
from app.web.dependencies import Actor, BeforeId, Session
from app.web.errors import answer
from app.web.versions import etag, read_version

router = APIRouter(prefix="/api/v1/lists", tags=["Lists"])

_DEFAULT_LIMIT = 50
_BATCH = 200
"""Features per query of a download."""

ListId = Annotated[str, Path(description="The id in the list's address.", examples=["dGhlIHNlYSA_"])]


class ListItemIn(BaseModel):
    """A feature to put into a list."""

    model_config = ConfigDict(extra="forbid")

    sae: Annotated[str, Field(description="Slug of the SAE.", examples=["smollm2-135m-l9-batchtopk-4096"])]
    feature: Annotated[int, Field(examples=[1042])]
    note: Annotated[str, Field(description=f"Up to {MAX_NOTE} characters.")] = ""


class ListIn(BaseModel):
    """A list with all its features."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(description=f"1 to {MAX_NAME} characters.", examples=["Rivers"])]
    description: Annotated[str, Field(description=f"Up to {MAX_DESCRIPTION:,} characters.")] = ""
    items: Annotated[
        list[ListItemIn],
        Field(description=f"In order; up to {MAX_ITEMS:,}, of any number of SAEs, each feature once."),
    ] = []


class NewListIn(ListIn):
    """A new list."""

    author: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_AUTHOR, description="The author; by default the setting SEESAE_AUTHOR."),
    ] = None


class ListItemOut(BaseModel):
    """A feature in a list."""

    sae: str
    feature: int
    note: str


class ListOut(BaseModel):
    """A list without its features."""

    id: Annotated[str, Field(description="Its page is /lists/{id}.")]
    name: str
    description: str
    author: str
    version: Annotated[int, Field(description="Counts the changes of the list and of anything in it.")]
    features: Annotated[int, Field(description="Number of features.")]
    saes: Annotated[list[str], Field(description="SAEs of the features, most frequent first.")]
    created_at: datetime
    updated_at: datetime


class ListDetailOut(ListOut):
    """A list with its features in order."""

    items: list[ListItemOut]


class CurrentList(BaseModel):
    """Current state of a list, in the answer to a stale change."""

    name: str
    description: str
    version: int
    updated_at: datetime


class Lists(BaseModel):
    """One page of lists, newest first."""

    lists: list[ListOut]
    next_cursor: str | None


class ListedFeatureOut(BaseModel):
    """A feature of a list in a download. Statistics are null if its SAE has no index."""

    sae: str
    feature: int
    note: str
    label: str | None
    density: float | None = None
    count: int | None = None
    max: float | None = None
    mean: float | None = None
    top_tokens: list[TopTokenOut] | None = None
    health: list[str] | None = None


IfMatch = Annotated[str, Header(description='The version that was read, as 3 or "3".')]


@router.get("", summary="All lists", responses=documented())
async def get_lists(
    session: Session,
    limit: Annotated[int, Query(ge=1, le=200)] = _DEFAULT_LIMIT,
    cursor: BeforeId = None,
) -> Lists:
    """Return all lists, newest first."""
    found, following = await queries.list_lists(session, limit=limit, before=cursor)
    return Lists(lists=[_out(summary) for summary in found], next_cursor=str(following) if following else None)


@router.post("", summary="Make a list", status_code=201, responses=documented())
async def post_list(
    body: NewListIn,
    session: Session,
    actor: Actor,
    response: Response,
    idempotency_key: Annotated[str, Header(max_length=MAX_KEY, description="Any random text, such as a UUID.")] = "",
) -> ListDetailOut:
    """Make a list. `Location` is its address.

    With an `Idempotency-Key`, a request that is sent again is answered with the list that the first one made.
    """
    made = await create_list(session, _text(body), _items(body), actor=actor.named(body.author), key=idempotency_key)
    response.headers["Location"] = f"{router.prefix}/{made.public_id}"
    return await _detail(session, made, response)


@router.get("/{id}", summary="One list", responses=documented(404))
async def get_list(id: ListId, session: Session, response: Response) -> ListDetailOut:
    """Return a list with all its features in order; `ETag` is its version."""
    return await _detail(session, await find_list(session, id), response)


@router.put("/{id}", summary="Replace a list", responses=documented(403, 404, 409))
async def put_list(
    id: ListId, body: ListIn, session: Session, actor: Actor, response: Response, if_match: IfMatch
) -> ListDetailOut:
    """Replace name, description and items, all of them.

    `If-Match` is the version that the change is based on. If another version is current, nothing is written and the
    answer is 409, with the list as `current`, without its features.
    """
    version = read_version(if_match, "list")
    return await _detail(
        session,
        await replace_list(session, id, _text(body), _items(body), actor=actor, expected_version=version),
        response,
    )


@router.delete("/{id}", summary="Delete a list", status_code=204, responses=documented(403, 404, 409))
async def remove_list(
    id: ListId,
    session: Session,
    actor: Actor,
    if_match: Annotated[str | None, Header(description="Delete only this version, such as 3.")] = None,
) -> None:
    """Delete a list permanently; the features themselves stay."""
    version = None if if_match is None else read_version(if_match, "list")
    await delete_list(session, id, actor=actor, expected_version=version)


@router.get(
    "/{id}/export",
    summary="Download a list",
    response_class=StreamingResponse,
    responses={200: {"content": {kind.split(";")[0]: {} for kind in MEDIA_TYPES.values()}}, **documented(404)},
)
async def export_list(id: ListId, session: Session, request: Request, format: Format = "csv") -> StreamingResponse:
    """Stream the features of a list in order, with notes, labels and statistics: CSV, a JSON array, or JSON lines."""
    found = await find_list(session, id)
    batches = _batches(request.app.state.sessionmaker, found)
    return StreamingResponse(
        serialise(format, ([_listed(feature) for feature in batch] async for batch in batches)),
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="list-{found.public_id}.{format}"'},
    )


async def answer_conflict(request: Request, error: Exception) -> Response:
    """Answer 409 with the current list."""
    assert isinstance(error, ListConflict)
    current = CurrentList.model_validate(error.current, from_attributes=True)
    return answer(request, error.status, error.title, str(error), current=current.model_dump(mode="json"))


async def _batches(sessions: async_sessionmaker[AsyncSession], of: ListView) -> AsyncIterator[list[ListedFeature]]:
    """Yield the features of a list in batches, each read in its own transaction."""
    after = 0
    while True:
        async with transaction(sessions) as session:
            items = await queries.list_items(session, of.id, after=after, limit=_BATCH)
            features = await queries.listed(session, items, with_examples=False)
        if not items:
            return
        yield features
        after = items[-1].position


def _listed(feature: ListedFeature) -> ListedFeatureOut:
    item, row = feature.item, feature.row
    label = feature.label.explanation if feature.label else None
    if row is None:
        return ListedFeatureOut(sae=feature.sae.slug, feature=item.feature, note=item.note, label=label)
    return ListedFeatureOut(
        sae=feature.sae.slug,
        feature=item.feature,
        note=item.note,
        label=label,
        density=row.density,
        count=row.count,
        max=row.max,
        mean=row.mean,
        top_tokens=[TopTokenOut.of(token) for token in row.top_tokens],
        health=list(row.health),
    )


def _text(body: ListIn) -> ListText:
    return ListText(body.name, body.description)


def _items(body: ListIn) -> list[NewItem]:
    return [NewItem(item.sae, item.feature, item.note) for item in body.items]


def _out(found: ListSummary) -> ListOut:
    return ListOut(
        id=found.list.public_id,
        name=found.list.name,
        description=found.list.description,
        author=found.list.author,
        version=found.list.version,
        features=found.features,
        saes=[slug for slug, _ in found.saes],
        created_at=found.list.created_at,
        updated_at=found.list.updated_at,
    )


async def _detail(session: AsyncSession, found: ListView, response: Response) -> ListDetailOut:
    response.headers["ETag"] = etag(found.version)
    [held] = await queries.summaries(session, [found])
    items = await queries.list_items(session, found.id)
    return ListDetailOut(
        **_out(held).model_dump(),
        items=[ListItemOut(sae=item.sae, feature=item.feature, note=item.note) for item in items],
    )
