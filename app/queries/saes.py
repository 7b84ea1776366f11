"""SAEs: what they are, and the overview of all their features."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.queries.corpora import SequenceSetInfo, sequence_set_info
from app.queries.models import ModelInfo, model_info
from app.queries.values import clean_json, storable
from app.tables import Corpus, Feature, FeatureIndex, Label, LanguageModel, Sae, SequenceSet


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """The published index of an SAE. `tokens` were counted; `topics` are the names that features refer to."""

    id: int
    sequence_set: SequenceSetInfo
    tokens: int
    topics: tuple[str, ...]
    provenance: Mapping[str, Any]
    published_at: datetime


@dataclass(frozen=True, slots=True)
class SaeDetail:
    """An SAE with its model and its current index (None until one is published)."""

    id: int
    slug: str
    model: ModelInfo
    hook: str
    hook_out: str | None
    """What a transcoder reconstructs; None for an autoencoder."""
    architecture: str
    d_in: int
    d_sae: int
    k: float | None
    artifact: str
    weights_sha256: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    created_by: str
    created_at: datetime
    index: IndexInfo | None
    labelled: int
    """Features with at least one submitted label."""


@dataclass(frozen=True, slots=True)
class DensityHistogram:
    """Features by log10 of their density, dead ones apart; `edges` has one entry more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    dead: int


async def register_sae(
    session: AsyncSession,
    *,
    slug: str,
    model_id: int,
    hook: str,
    hook_out: str | None = None,
    architecture: str,
    d_in: int,
    d_sae: int,
    k: float | None,
    artifact: str,
    weights_sha256: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    created_by: str,
) -> SaeDetail:
    """The SAE of this slug and these weights, registered if it is new; `artifact` and `metrics` are brought up to date.

    Raises:
        Conflict: the slug belongs to other weights, to which its labels belong too.
    """
    new = insert(Sae).values(
        slug=slug,
        model_id=model_id,
        hook=hook,
        hook_out=hook_out,
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        k=k,
        artifact=artifact,
        weights_sha256=weights_sha256,
        config=clean_json(config),
        metrics=clean_json(metrics),
        created_by=created_by,
    )
    written = await session.scalar(
        new.on_conflict_do_update(
            index_elements=["slug"],
            set_={"artifact": new.excluded.artifact, "metrics": Sae.metrics.concat(new.excluded.metrics)},
            where=Sae.weights_sha256 == weights_sha256,
        ).returning(Sae.id)
    )
    if written is None:
        raise Conflict(f"An SAE named {slug} with other weights is registered already: give this one another name.")
    sae = await get_sae(session, slug)
    assert sae is not None
    return sae


async def set_metrics(session: AsyncSession, sae_id: int, metrics: Mapping[str, Any]) -> None:
    """Add or replace evaluation metrics by name, keeping the others."""
    sae = await session.get_one(Sae, sae_id, with_for_update=True)
    sae.metrics = {**sae.metrics, **clean_json(metrics)}
    await session.flush()


async def list_saes(session: AsyncSession) -> list[SaeDetail]:
    """All SAEs, newest first."""
    rows = await session.execute(_details().order_by(Sae.created_at.desc(), Sae.id.desc()))
    return [_detail(*row) for row in rows]


async def get_sae(session: AsyncSession, slug: str) -> SaeDetail | None:
    """The SAE with this slug."""
    if not storable(slug):
        return None
    row = (await session.execute(_details().where(Sae.slug == slug))).one_or_none()
    return None if row is None else _detail(*row)


def _details() -> Select[Any]:
    """Everything `_detail` needs.

    The query names the table `feature`, and so holds it until the reader's transaction ends: an index that was current
    when the reader looked is then not dropped under it (`app.queries.publish`).
    """
    labelled = (
        select(func.count(Label.feature.distinct()))
        .where(Label.sae_id == Sae.id, Label.status == "submitted")
        .scalar_subquery()
    )
    held = select(Feature.number).where(literal(False)).exists()
    return (
        select(Sae, LanguageModel, FeatureIndex, SequenceSet, Corpus, labelled, held)
        .join(LanguageModel, LanguageModel.id == Sae.model_id)
        .outerjoin(FeatureIndex, FeatureIndex.id == Sae.current_index_id)
        .outerjoin(SequenceSet, SequenceSet.id == FeatureIndex.sequence_set_id)
        .outerjoin(Corpus, Corpus.id == SequenceSet.corpus_id)
        .execution_options(populate_existing=True)
    )


def _detail(
    sae: Sae,
    model: LanguageModel,
    index: FeatureIndex | None,
    sequences: SequenceSet,
    corpus: Corpus,
    labelled: int,
    held: bool,
) -> SaeDetail:
    return SaeDetail(
        id=sae.id,
        slug=sae.slug,
        model=model_info(model),
        hook=sae.hook,
        hook_out=sae.hook_out,
        architecture=sae.architecture,
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        k=sae.k,
        artifact=sae.artifact,
        weights_sha256=sae.weights_sha256,
        config=sae.config,
        metrics=sae.metrics,
        created_by=sae.created_by,
        created_at=sae.created_at,
        index=None if index is None else _index_info(index, sequence_set_info(sequences, corpus)),
        labelled=labelled,
    )


def _index_info(index: FeatureIndex, sequences: SequenceSetInfo) -> IndexInfo:
    return IndexInfo(
        id=index.id,
        sequence_set=sequences,
        tokens=index.tokens,
        topics=tuple(index.topics),
        provenance=index.provenance,
        published_at=index.published_at,
    )


async def density_histogram(session: AsyncSession, sae: SaeDetail, *, bins: int = 40) -> DensityHistogram | None:
    """How the densities of all features are distributed; None without an index.

    The bins are equal in log10, from the least density there can be (active on one token) to 1.
    """
    if sae.index is None:
        return None
    lowest = -math.log10(max(sae.index.tokens, 10))
    edges = tuple(lowest * (1 - place / bins) for place in range(bins + 1))
    # width_bucket numbers from 1 and puts the upper end, density 1, past the last bin
    bucket = func.least(func.width_bucket(func.log(Feature.density), lowest, 0.0, bins), bins)
    rows = await session.execute(
        select(bucket, func.count()).where(Feature.index_id == sae.index.id, Feature.density > 0).group_by(bucket)
    )
    counts = [0] * bins
    for place, count in rows:
        counts[max(place - 1, 0)] += count
    dead = await session.scalar(select(func.count()).where(Feature.index_id == sae.index.id, Feature.density == 0))
    return DensityHistogram(edges, tuple(counts), dead or 0)


async def health_counts(session: AsyncSession, sae: SaeDetail) -> dict[str, int]:
    """How many features carry each health flag ("dead", "dense", ...); flags that none carries are absent."""
    if sae.index is None:
        return {}
    flag = func.unnest(Feature.health)
    rows = await session.execute(
        select(flag.label("flag"), func.count().label("features"))
        .where(Feature.index_id == sae.index.id)
        .group_by(flag)
        .order_by(flag)
    )
    return {row.flag: row.features for row in rows}
