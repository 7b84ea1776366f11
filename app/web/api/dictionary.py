"""The dictionary of an SAE: agreed labels, in pages and as a file."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.problems import documented
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.dictionary import RULE, current_hash, find_citation, read_dictionary
from app.web.components.dictionary_models import EntryOut
from app.web.components.export_formats import MEDIA_TYPES, Format, serialise
from app.web.dependencies import Sae, Session

router = APIRouter(prefix="/api/v1", tags=["Labels"])

Search = Annotated[str, Query(max_length=200, description="Words of which an entry has all.")]


class Dictionary(BaseModel):
    """Agreed labels, by feature. `next_after` is the `after` of the next page, null on the last one."""

    index: str
    newer: bool
    rule: str
    entries: list[EntryOut]
    total: int
    next_after: int | None


@router.get("/saes/{sae}/dictionary", summary="Dictionary of an SAE", responses=documented(404))
async def get_dictionary(
    sae: Sae,
    session: Session,
    q: Search = "",
    index: Annotated[str, Query(max_length=40, description="The index's hash, as in a citation.")] = "",
    after: Annotated[int, Query(ge=-1, le=MAX_INTEGER, description="The last feature of the previous page.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Dictionary:
    """Return the features whose meaning is agreed: `rule` says when it is.

    With the hash of an earlier index, `newer` is true: features were counted anew since.
    """
    cited = await find_citation(session, sae, index) if index else None
    entries = await read_dictionary(session, sae, search=q)
    following = [entry for entry in entries if entry.agreed.feature > after]
    shown = following[:limit]
    return Dictionary(
        index=current_hash(sae),
        newer=bool(cited and cited.newer),
        rule=RULE,
        entries=[EntryOut.of(sae.slug, current_hash(sae), entry) for entry in shown],
        total=len(entries),
        next_after=shown[-1].agreed.feature if len(following) > limit else None,
    )


@router.get(
    "/saes/{sae}/dictionary/export",
    summary="Download a dictionary",
    response_class=StreamingResponse,
    responses={200: {"content": {kind.split(";")[0]: {} for kind in MEDIA_TYPES.values()}}, **documented(404)},
)
async def export_dictionary(sae: Sae, session: Session, format: Format = "csv") -> StreamingResponse:
    """Stream all entries of a dictionary, one per row, each with the hash of the index."""
    entries = [EntryOut.of(sae.slug, current_hash(sae), entry) for entry in await read_dictionary(session, sae)]

    async def batches() -> AsyncIterator[Sequence[EntryOut]]:
        yield entries

    return StreamingResponse(
        serialise(format, batches()),
        media_type=MEDIA_TYPES[format],
        headers={"Content-Disposition": f'attachment; filename="{sae.slug}-{current_hash(sae)}-dictionary.{format}"'},
    )
