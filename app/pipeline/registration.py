"""Turn `sae_core`'s objects into rows: SAEs, sequences and indexes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from app.pipeline.db_rows import example_rows, feature_rows, unpadded
from app.pipeline.prepared_inputs import HookPair, PreparedInputs
from app.queries import corpora, saes
from app.queries.corpora import DocumentRow, SequenceSetInfo
from app.queries.models import ModelInfo
from app.queries.publish import FeatureStatisticsRow, publish_index
from app.queries.saes import SaeDetail
from app.runs.job_context import JobContext
from sae_core.files import sha256_file
from sae_core.progress import Progress
from sae_core.saes import SAE
from sae_core.statistics.types import FeatureStatistics
from sae_core.training import TrainingConfig

WEIGHTS = "sae_weights.safetensors"


async def register_trained(
    ctx: JobContext,
    slug: str,
    config: TrainingConfig,
    inputs: PreparedInputs,
    training_key: str,
    created_by: str,
    run_id: int,
) -> SaeDetail:
    """Write the row of an SAE that was just trained and saved. It names the architecture that was trained."""
    folder = ctx.artifacts.sae(slug)
    async with ctx.sessions.begin() as session:
        return await saes.register_sae(
            session,
            saes.SaeRow(
                slug=slug,
                model_id=inputs.model_row.id,
                **inputs.hooks.names(),
                architecture=config.architecture,
                d_in=inputs.activations.d_in,
                d_sae=config.d_sae,
                k=config.k if config.takes_k else None,
                artifact=str(folder.relative_to(ctx.artifacts.root)),
                weights_sha256=sha256_file(folder / WEIGHTS),
                config={
                    **asdict(config.resolved()),
                    "corpus": inputs.corpus_row.slug,
                    "corpus_version": inputs.corpus_row.version,
                    "sequences": inputs.sequences.sha256,
                    "training_key": training_key,
                    "run": run_id,
                },
                metrics={},
                created_by=created_by,
            ),
        )


async def register_imported(
    ctx: JobContext,
    slug: str,
    sae: SAE,
    weights_sha256: str,
    model: ModelInfo,
    hooks: HookPair,
    config: Mapping[str, Any],
    created_by: str,
) -> SaeDetail:
    """Write the row of an SAE that was trained elsewhere. It names the architecture that is saved here."""
    async with ctx.sessions.begin() as session:
        return await saes.register_sae(
            session,
            saes.SaeRow(
                slug=slug,
                model_id=model.id,
                **hooks.names(),
                architecture=sae.architecture,
                d_in=sae.d_in,
                d_sae=sae.d_sae,
                k=sae.k,
                artifact=str(ctx.artifacts.sae(slug).relative_to(ctx.artifacts.root)),
                weights_sha256=weights_sha256,
                config=config,
                metrics={},
                created_by=created_by,
            ),
        )


async def register_sequences(ctx: JobContext, inputs: PreparedInputs) -> SequenceSetInfo:
    """Write the rows of the corpus' documents and sequences."""
    sequences = inputs.sequences
    async with ctx.sessions.begin() as session:
        return await corpora.register_sequences(
            session,
            corpora.SequenceSetRow(
                corpus_id=inputs.corpus_row.id,
                model_id=inputs.model_row.id,
                length=sequences.length,
                tokens=sequences.n_counted,
                sha256=sequences.sha256,
            ),
            documents=[DocumentRow(entry.title, entry.topic) for entry in sequences.documents],
            sequences=list(unpadded(sequences)),
        )


async def publish(
    ctx: JobContext, detail: SaeDetail, inputs: PreparedInputs, statistics: FeatureStatistics, progress: Progress
) -> None:
    """Publish an index that replaces the SAE's current one; `progress` counts features."""
    sequence_set = await register_sequences(ctx, inputs)
    await publish_index(
        ctx.engine,
        sae_id=detail.id,
        sequence_set_id=sequence_set.id,
        tokens=statistics.tokens,
        topics=statistics.topic_names,
        provenance=statistics.provenance,
        features=with_progress(feature_rows(statistics), detail.d_sae, progress),
        examples=example_rows(statistics),
    )


def with_progress(
    rows: Iterable[FeatureStatisticsRow], total: int, progress: Progress
) -> Iterator[FeatureStatisticsRow]:
    """Yield the rows, reporting now and then how many: reporting is what raises when the run is to stop."""
    for row in rows:
        if row.number % 128 == 0:
            progress(row.number, total)
        yield row
    progress(total, total)
