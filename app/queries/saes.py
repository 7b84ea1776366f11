"""SAEs, and the overview of their features."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.queries.corpora import SequenceSetInfo, sequence_set_info
from app.queries.models import NO_WEIGHTS, ModelInfo, model_info
from app.queries.sql.expressions import in_array, submitted
from app.queries.sql.pg_safe import clean_json, storable
from app.tables import Corpus, Feature, FeatureIndex, Label, LanguageModel, Sae, SequenceSet


@dataclass(frozen=True, slots=True)
class DensityHistogram:
    """Histogram of log10 density, dead features apart; `edges` has one more entry than `counts`.

    The bins are equal, from the lowest possible density (active on one token) to 1.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    dead: int


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """The published index of an SAE. `tokens` is the number of counted ones; features refer to `topics` by position."""

    id: int
    sequence_set: SequenceSetInfo
    tokens: int
    topics: tuple[str, ...]
    provenance: Mapping[str, Any]
    published_at: datetime
    densities: DensityHistogram
    redundancies: tuple[int, ...]
    """Histogram of each feature's largest decoder cosine with another, in equal bins from 0 to 1."""
    coherent: int
    """Features whose coherence is known; none in an index that was made without it."""
    health: Mapping[str, int]
    """Number of features per health flag ("dead", "dense", ...); flags without features are absent."""


@dataclass(frozen=True, slots=True)
class SaeDetail:
    """An SAE with its model and its current index (None until one is published)."""

    id: int
    slug: str
    model: ModelInfo
    hook: str
    hook_out: str | None
    """Hook point that a transcoder reconstructs; None for an autoencoder."""
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
    label_changes: int = 0
    """Writes of labels and of measured effects so far; pages that show either are unchanged while it is."""

    @property
    def has_weights(self) -> bool:
        """False for an SAE that was imported as statistics only, which cannot run on text."""
        return not self.weights_sha256.startswith(NO_WEIGHTS)

    @property
    def indexed(self) -> int:
        """Number of features in the index; an imported one may describe only some of the SAE's features."""
        return 0 if self.index is None else int(self.index.provenance.get("features", self.d_sae))


@dataclass(frozen=True, slots=True)
class SaeRow:
    """One SAE to register."""

    slug: str
    model_id: int
    hook: str
    architecture: str
    d_in: int
    d_sae: int
    k: float | None
    artifact: str
    weights_sha256: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    created_by: str
    hook_out: str | None = None


async def register_sae(session: AsyncSession, row: SaeRow) -> SaeDetail:
    """Register an SAE, or update `artifact` and `metrics` of the one with this slug and these weights.

    Raises:
        Conflict: the slug belongs to other weights, to which its labels belong too.
    """
    clean = replace(row, config=clean_json(row.config), metrics=clean_json(row.metrics))
    new = insert(Sae).values(asdict(clean))
    written = await session.scalar(
        new.on_conflict_do_update(
            index_elements=["slug"],
            set_={"artifact": new.excluded.artifact, "metrics": Sae.metrics.concat(new.excluded.metrics)},
            where=Sae.weights_sha256 == row.weights_sha256,
        ).returning(Sae.id)
    )
    if written is None:
        raise Conflict(f"An SAE named {row.slug} with other weights is registered already: give this one another name.")
    sae = await get_sae(session, row.slug)
    assert sae is not None
    return sae


async def set_metrics(session: AsyncSession, sae_id: int, metrics: Mapping[str, Any]) -> None:
    """Add or replace evaluation metrics by name, keeping the others."""
    sae = await session.get_one(Sae, sae_id, with_for_update=True)
    sae.metrics = {**sae.metrics, **clean_json(metrics)}
    await session.flush()


async def list_saes(session: AsyncSession) -> list[SaeDetail]:
    """Return all SAEs, newest first."""
    rows = await session.execute(_ALL)
    return [_detail(*row) for row in rows]


async def newest_sae(session: AsyncSession) -> SaeDetail | None:
    """Return the newest SAE that has weights."""
    row = (await session.execute(_ALL.where(~Sae.weights_sha256.startswith(NO_WEIGHTS)).limit(1))).one_or_none()
    return None if row is None else _detail(*row)


async def get_sae(session: AsyncSession, slug: str) -> SaeDetail | None:
    """Return the SAE with this slug."""
    if not storable(slug):
        return None
    row = (await session.execute(_ONE, {"slug": slug})).one_or_none()
    return None if row is None else _detail(*row)


async def get_saes(session: AsyncSession, ids: Collection[int]) -> dict[int, SaeDetail]:
    """Return these SAEs by id."""
    rows = await session.execute(_THESE, {"ids": list(ids)})
    return {sae.id: sae for sae in (_detail(*row) for row in rows)}


async def sae_sizes(session: AsyncSession, slugs: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return id and number of features by slug; SAEs that do not exist are absent.

    Those that there are stay until the transaction ends, as in `_details`: rows that name them can be written.
    """
    query = select(Sae.slug, Sae.id, Sae.d_sae, _held()).where(Sae.slug.in_(filter(storable, slugs)))
    return {slug: (number, size) for slug, number, size, _ in await session.execute(query)}


def _held() -> ColumnElement[bool]:
    """Name the table `feature`, which the query then holds until its transaction ends.

    Until then no deletion begins (`app.queries.deletions`), and the current index is not dropped (`.publish`).
    """
    return select(Feature.number).where(literal(False)).exists()


def _details() -> Select[Any]:
    """Select everything that `_detail` needs; it holds the SAEs that it finds."""
    labelled = select(func.count(Label.feature.distinct())).where(Label.sae_id == Sae.id, submitted).scalar_subquery()
    return (
        select(Sae, LanguageModel, FeatureIndex, SequenceSet, Corpus, labelled, _held())
        .join(LanguageModel, LanguageModel.id == Sae.model_id)
        .outerjoin(FeatureIndex, FeatureIndex.id == Sae.current_index_id)
        .outerjoin(SequenceSet, SequenceSet.id == FeatureIndex.sequence_set_id)
        .outerjoin(Corpus, Corpus.id == SequenceSet.corpus_id)
        .execution_options(populate_existing=True)
    )


_ALL = _details().order_by(Sae.created_at.desc(), Sae.id.desc())
_THESE = _details().where(in_array(Sae.id, "ids"))
_ONE = _details().where(Sae.slug == bindparam("slug"))


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
        label_changes=sae.label_changes,
    )


def _index_info(index: FeatureIndex, sequences: SequenceSetInfo) -> IndexInfo:
    return IndexInfo(
        id=index.id,
        sequence_set=sequences,
        tokens=index.tokens,
        topics=tuple(index.topics),
        provenance=index.provenance,
        published_at=index.published_at,
        densities=_densities(index),
        redundancies=tuple(index.redundancy_counts),
        coherent=index.coherent,
        health=index.health,
    )


def _densities(index: FeatureIndex) -> DensityHistogram:
    lowest, bins = lowest_density(index.tokens), len(index.density_counts)
    edges = tuple(lowest * (1 - place / bins) for place in range(bins + 1))
    return DensityHistogram(edges, tuple(index.density_counts), index.dead)


def lowest_density(tokens: int) -> float:
    """Return log10 of the lowest possible density, active on one of `tokens` tokens."""
    return -math.log10(max(tokens, 10))
