"""GET /models and /corpora: what SAEs are trained and indexed on, and what would be in the way of deleting it."""

import asyncio
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.artifacts import Artifacts
from app.paths import without_folder
from app.problems import documented
from app.services.inventory import stored_corpora, stored_models
from app.web.dependencies import AppSettings, Session

router = APIRouter(prefix="/api/v1", tags=["Models and corpora"])

Tokens = Annotated[int, Field(description="Counted tokens of text that was packed into sequences.")]


class StoredModelOut(BaseModel):
    """A language model, and what uses it."""

    name: Annotated[str, Field(description="As DELETE /api/v1/models/{name} takes it.")]
    source: Annotated[str, Field(description="Where it is loaded from; of a folder, its last part alone.")]
    n_layers: int
    d_model: int
    vocab_size: int
    has_weights: Annotated[bool, Field(description="False if only statistics of its SAEs were imported.")]
    weights_sha256: str
    tokenizer_sha256: str
    saes: Annotated[list[str], Field(description="Its SAEs; it can be deleted when there are none.")]
    sequences: Annotated[int, Field(description="Sequences of text that were packed with its tokenizer.")]
    tokens: Tokens
    file_bytes: Annotated[
        int | None,
        Field(description="Bytes of the weights that SeeSAE converted; null if the artifacts are elsewhere."),
    ]


class ModelList(BaseModel):
    """All models, by name."""

    models: list[StoredModelOut]


class StoredCorpusOut(BaseModel):
    """A corpus, and what uses it."""

    name: Annotated[str, Field(description="As DELETE /api/v1/corpora/{name} takes it.", examples=["texts:2"])]
    title: str
    source: Annotated[str, Field(description="Where it was read; of a file or folder, its last part alone.")]
    licence: str
    documents: int
    saes: Annotated[list[str], Field(description="SAEs indexed on it; it can be deleted when there are none.")]
    sequences: Annotated[int, Field(description="Sequences that were packed from it, by any tokenizer.")]
    tokens: Tokens


class CorpusList(BaseModel):
    """All corpora, by name and version."""

    corpora: list[StoredCorpusOut]


@router.get("/models", summary="All models", responses=documented())
async def list_models(session: Session, settings: AppSettings) -> ModelList:
    """Return all models with their SAEs, by name."""
    artifacts = Artifacts.of(settings)
    found = await stored_models(session, artifacts)
    sizes = await asyncio.to_thread(lambda: [artifacts.bytes_of(stored.folders) for stored in found])
    return ModelList(
        models=[
            StoredModelOut(
                name=stored.name,
                source=without_folder(stored.model.source),
                n_layers=stored.model.n_layers,
                d_model=stored.model.d_model,
                vocab_size=stored.model.vocab_size,
                has_weights=stored.model.has_weights,
                weights_sha256=stored.model.weights_sha256,
                tokenizer_sha256=stored.model.tokenizer_sha256,
                saes=list(stored.saes),
                sequences=stored.text.sequences,
                tokens=stored.text.tokens,
                file_bytes=size,
            )
            for stored, size in zip(found, sizes, strict=True)
        ]
    )


@router.get("/corpora", summary="All corpora", responses=documented())
async def list_corpora(session: Session) -> CorpusList:
    """Return all corpora with the SAEs that are indexed on them, by name and version."""
    return CorpusList(
        corpora=[
            StoredCorpusOut(
                name=stored.name,
                title=stored.corpus.title,
                source=without_folder(stored.corpus.source),
                licence=stored.corpus.licence,
                documents=stored.corpus.documents,
                saes=list(stored.saes),
                sequences=stored.text.sequences,
                tokens=stored.text.tokens,
            )
            for stored in await stored_corpora(session)
        ]
    )
