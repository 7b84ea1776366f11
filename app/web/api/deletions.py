"""DELETE: an SAE, its index, a model, a corpus."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app.artifacts import Artifacts
from app.problems import documented
from app.services import deletion as deletions
from app.services.deletion import Kind
from app.web.dependencies import AppSettings, Session, Submitter

router = APIRouter(prefix="/api/v1", tags=["Deleting"])


class DeletionOut(BaseModel):
    """The result of a deletion."""

    kind: Kind
    name: str
    goes: Annotated[list[str], Field(description="What went with it, in words.")]
    stays: Annotated[list[str], Field(description="What stays, in words.")]
    labels: Annotated[int, Field(description="Labels that went, drafts too.")]
    database_bytes: Annotated[int, Field(description="Room in the database that is free at once.")]
    file_bytes: Annotated[
        int | None,
        Field(description="Bytes of its files, which a worker removes within minutes; null if they are elsewhere."),
    ]


SaeName = Annotated[str, Path(description="Slug of the SAE.", examples=["smollm2-135m-l9-topk-4096"])]
Name = Annotated[str, Path(description="Its name; of a corpus that is not the first of its name, as in texts:2.")]


@router.delete("/saes/{sae}", summary="Delete an SAE", responses=documented(404, 409))
async def delete_sae(sae: SaeName, session: Session, settings: AppSettings, _actor: Submitter) -> DeletionOut:
    """Delete an SAE with its features, labels, entries of lists and comparisons. Refused while a run uses it."""
    return await _delete(session, settings, "sae", sae)


@router.delete("/saes/{sae}/index", summary="Delete the index of an SAE", responses=documented(404, 409))
async def delete_index(sae: SaeName, session: Session, settings: AppSettings, _actor: Submitter) -> DeletionOut:
    """Delete the statistics and examples of an SAE's features. Its labels stay."""
    return await _delete(session, settings, "index", sae)


@router.delete("/models/{name:path}", summary="Delete a model", responses=documented(404, 409))
async def delete_model(name: Name, session: Session, settings: AppSettings, _actor: Submitter) -> DeletionOut:
    """Delete a model that has no SAEs."""
    return await _delete(session, settings, "model", name)


@router.delete("/corpora/{name:path}", summary="Delete a corpus", responses=documented(404, 409))
async def delete_corpus(name: Name, session: Session, settings: AppSettings, _actor: Submitter) -> DeletionOut:
    """Delete a corpus that no published index is of."""
    return await _delete(session, settings, "corpus", name)


async def _delete(session: Session, settings: AppSettings, kind: Kind, name: str) -> DeletionOut:
    artifacts = Artifacts.of(settings)
    gone = await deletions.delete(session, kind, name, artifacts)
    return DeletionOut(
        kind=gone.kind,
        name=gone.name,
        goes=list(gone.goes),
        stays=list(gone.stays),
        labels=gone.labels,
        database_bytes=gone.table_bytes,
        file_bytes=await asyncio.to_thread(artifacts.bytes_of, gone.folders),
    )
