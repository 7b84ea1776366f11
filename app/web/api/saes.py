"""GET /saes and /saes/{sae}."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.problems import documented
from app.queries import saes as queries
from app.queries.saes import DensityHistogram, IndexInfo, SaeDetail
from app.web.components.output_tokens import no_output_tokens
from app.web.dependencies import Sae, Session

router = APIRouter(prefix="/api/v1/saes", tags=["SAEs"])


class ModelOut(BaseModel):
    """A language model."""

    name: str
    n_layers: int
    d_model: int
    vocab_size: int
    weights_sha256: str
    tokenizer_sha256: str


class CorpusOut(BaseModel):
    """A corpus, with its attribution."""

    slug: str
    version: Annotated[int, Field(description="1 for the first text of this slug, 2 for the next, …")]
    title: str
    source: str
    licence: str
    attribution: str
    documents: int


class IndexOut(BaseModel):
    """The text that the statistics were computed on."""

    tokens: Annotated[int, Field(description="Counted tokens; densities are shares of these.")]
    sequences: int
    length: Annotated[int, Field(description="Tokens per sequence.")]
    corpus: CorpusOut
    topics: list[str]
    provenance: Annotated[dict[str, Any], Field(description="Hashes, seeds, thresholds, and what was not counted.")]
    no_output_tokens: Annotated[
        str | None, Field(description="Why its features have no output tokens; null if they have.")
    ]
    published_at: datetime


class SaeOut(BaseModel):
    """A sparse autoencoder on one hook point of a model."""

    slug: str
    model: ModelOut
    hook: Annotated[str, Field(examples=["resid_post.9"])]
    hook_out: Annotated[str | None, Field(description="What a transcoder reconstructs; null for an autoencoder.")]
    architecture: str
    d_in: int
    d_sae: Annotated[int, Field(description="Number of features.")]
    k: float | None
    weights_sha256: str
    has_weights: Annotated[
        bool, Field(description="False for one that was imported as statistics only, which cannot be probed.")
    ]
    metrics: Annotated[dict[str, Any], Field(description="Results of evaluation, such as explained_variance and l0.")]
    created_by: str
    created_at: datetime
    labelled: Annotated[int, Field(description="Features with at least one submitted label.")]
    index: Annotated[IndexOut | None, Field(description="The published index; null until there is one.")]


class DensityHistogramOut(BaseModel):
    """Features by log10 of their density; dead features are counted separately."""

    edges: list[float]
    counts: list[int]
    dead: int


class SaeDetailOut(SaeOut):
    """A sparse autoencoder with an overview of its features."""

    config: Annotated[dict[str, Any], Field(description="How it was trained.")]
    density_histogram: DensityHistogramOut | None
    redundancy_histogram: Annotated[
        list[int],
        Field(
            description="Features by the cosine of the decoder direction nearest to theirs, in equal bins from 0 to 1."
        ),
    ]
    health: Annotated[dict[str, int], Field(description="Features per health flag.")]


class SaeList(BaseModel):
    """All SAEs, newest first."""

    saes: list[SaeOut]


@router.get("", summary="All SAEs", responses=documented())
async def list_saes(session: Session) -> SaeList:
    """Return all SAEs, newest first."""
    return SaeList(saes=[SaeOut(**_common(sae)) for sae in await queries.list_saes(session)])


@router.get("/{sae}", summary="One SAE", responses=documented(404))
async def get_sae(sae: Sae) -> SaeDetailOut:
    """Return one SAE, with the distribution of its features' densities and counts of their health flags."""
    return SaeDetailOut(
        **_common(sae),
        config=dict(sae.config),
        density_histogram=_density(sae.index.densities) if sae.index else None,
        redundancy_histogram=list(sae.index.redundancies) if sae.index else [],
        health=dict(sae.index.health) if sae.index else {},
    )


def _common(sae: SaeDetail) -> dict[str, Any]:
    return {
        "slug": sae.slug,
        "model": ModelOut.model_validate(sae.model, from_attributes=True),
        "hook": sae.hook,
        "hook_out": sae.hook_out,
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "k": sae.k,
        "weights_sha256": sae.weights_sha256,
        "has_weights": sae.has_weights,
        "metrics": dict(sae.metrics),
        "created_by": sae.created_by,
        "created_at": sae.created_at,
        "labelled": sae.labelled,
        "index": _index(sae.index) if sae.index else None,
    }


def _index(index: IndexInfo) -> IndexOut:
    return IndexOut(
        tokens=index.tokens,
        sequences=index.sequence_set.sequences,
        length=index.sequence_set.length,
        corpus=CorpusOut.model_validate(index.sequence_set.corpus, from_attributes=True),
        topics=list(index.topics),
        provenance=dict(index.provenance),
        no_output_tokens=no_output_tokens(index.provenance),
        published_at=index.published_at,
    )


def _density(histogram: DensityHistogram) -> DensityHistogramOut:
    return DensityHistogramOut(edges=list(histogram.edges), counts=list(histogram.counts), dead=histogram.dead)
