"""Delete SAEs, indexes, models and corpora: what belongs to them, who uses them, and their rows.

Readers find the SAE by a query that holds the table `feature` until their transaction ends (`app.queries.saes`). So a
deletion that holds it alone has no reader half-way through the rows that go.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import delete, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import Unavailable
from app.queries.corpora import CorpusInfo, corpus_info
from app.queries.edits import edits_of_sae
from app.queries.models import ModelInfo, model_info
from app.queries.sql.locks import holds_run_lock, lock_until_commit
from app.queries.sql.pg_safe import clean_json, storable
from app.tables import (
    Audit,
    BlindTest,
    Comment,
    Comparison,
    Corpus,
    DeletedFolder,
    FeatureIndex,
    Label,
    LabelDecision,
    LabelSet,
    LanguageModel,
    Run,
    RunUse,
    Sae,
    SaeClaim,
    SavedList,
    SavedListItem,
    SavedMonitor,
    SavedProbe,
    SequenceSet,
    TextComparison,
    TextSetReading,
    Token,
)

READERS_TIMEOUT = 10.0
"""Seconds to wait for readers of features to end."""
_LOCK_MILLISECONDS = 250
"""Longest that other readers wait behind one attempt."""


@dataclass(frozen=True, slots=True)
class UsedBy:
    """A run under way that uses something."""

    run_id: int
    title: str
    state: str


@dataclass(frozen=True, slots=True)
class SaeContents:
    """The rows and bytes that belong to an SAE."""

    labels: int
    """Drafts too."""
    authors: int
    label_sets: int
    decisions: int
    comments: int
    blind_tests: int
    list_entries: int
    lists: int
    saved_probes: int
    edits: int
    readings: tuple[str, ...]
    """Keys of its readings of text sets."""
    text_comparisons: int
    monitors: int
    audits: int
    compared_with: tuple[str, ...]
    runs: int
    index_ids: tuple[int, ...]
    """Of all indexes it ever had."""
    sequences_sha256: tuple[str, ...]
    """Of the texts of all these indexes."""
    table_bytes: int
    """Of the features and examples of its indexes."""


async def exclude_readers(session: AsyncSession) -> None:
    """Wait until nobody reads features, and keep readers out until this transaction ends; one deletion at a time.

    Call it first: a transaction that has read features cannot be alone with them.

    Raises:
        Unavailable: somebody reads or writes them for long, such as an export.
    """
    await lock_until_commit(session, "delete")
    deadline = time.monotonic() + READERS_TIMEOUT
    while True:
        try:
            async with session.begin_nested():
                await session.execute(text(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}"))
                await session.execute(text("LOCK TABLE ONLY feature, ONLY example_band IN ACCESS EXCLUSIVE MODE"))
            break
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            if time.monotonic() > deadline:
                raise Unavailable(
                    "Somebody is reading or writing features for long: an export, a backup, or a run that publishes an "
                    "index. Nothing was deleted. Try again when it has ended."
                ) from error
            await asyncio.sleep(0.05)
    await session.execute(text("SET LOCAL lock_timeout TO DEFAULT"))


async def runs_using(session: AsyncSession, subjects: Collection[str], names: Collection[str]) -> list[UsedBy]:
    """Return the runs under way that note one of `subjects`, or have one of `names` among their parameters.

    Args:
        subjects: as `app.tables.runs.RunUse` has them.
        names: slug or source of what is used, as parameters name it.
    """
    named = func.jsonb_path_exists(
        Run.params,
        text("'$.** ? (@ == $names[*])'::jsonpath"),
        literal(clean_json({"names": list(names)}), JSONB),
    )
    uses = select(RunUse.run_id).where(RunUse.run_id == Run.id, RunUse.subject.in_(subjects)).exists()
    claims = select(SaeClaim.run_id).where(SaeClaim.run_id == Run.id, SaeClaim.slug.in_(names)).exists()
    about = select(Sae.id).where(Sae.id == Run.sae_id, Sae.slug.in_(names)).exists()
    rows = await session.execute(
        select(Run.id, Run.title, Run.state, Run.job_id)
        .where(Run.state.in_(("queued", "running")), or_(named, uses, claims, about))
        .order_by(Run.id)
    )
    return [UsedBy(row.id, row.title, row.state) for row in rows.all() if await _is_alive(session, row)]


async def uses_of_active_runs(session: AsyncSession) -> dict[str, int]:
    """Return the subjects that runs under way use, each with one run; an SAE that a run makes is its folder."""
    active = Run.state.in_(("queued", "running"))
    rows = [
        *await session.execute(select(Run.id, Run.job_id, RunUse.subject).join(RunUse).where(active)),
        *await session.execute(select(Run.id, Run.job_id, "saes/" + SaeClaim.slug).join(SaeClaim).where(active)),
    ]
    alive = {row.id for row in rows if await _is_alive(session, row)}
    return {row[2]: row.id for row in rows if row.id in alive}


async def active_run_ids(session: AsyncSession) -> list[int]:
    """Return the runs that a process works on, or will."""
    rows = (await session.execute(select(Run.id, Run.job_id).where(Run.state.in_(("queued", "running"))))).all()
    return [row.id for row in rows if await _is_alive(session, row)]


async def unfinished_uses(session: AsyncSession) -> dict[str, int]:
    """Return the subjects of runs that failed or were cancelled, each with its newest run."""
    rows = await session.execute(
        select(RunUse.subject, func.max(Run.id))
        .join(Run, Run.id == RunUse.run_id)
        .where(Run.state.in_(("failed", "cancelled")))
        .group_by(RunUse.subject)
    )
    return {row[0]: row[1] for row in rows}


async def _is_alive(session: AsyncSession, run: Any) -> bool:
    """True unless it is the run of a command that was killed, which stays marked as under way."""
    return run.job_id is not None or await holds_run_lock(session, run.id)


async def sae_contents(session: AsyncSession, sae_id: int) -> SaeContents:
    """Count what belongs to an SAE."""
    labels, authors = (
        await session.execute(select(func.count(), func.count(Label.author.distinct())).where(Label.sae_id == sae_id))
    ).one()
    entries, lists = (
        await session.execute(
            select(func.count(), func.count(SavedListItem.list_id.distinct())).where(SavedListItem.sae_id == sae_id)
        )
    ).one()
    others = select(Comparison.a_id).where(Comparison.b_id == sae_id)
    others = others.union(select(Comparison.b_id).where(Comparison.a_id == sae_id))  # type: ignore[assignment]
    compared = await session.scalars(select(Sae.slug).where(Sae.id.in_(others)).order_by(Sae.slug))
    indexes = (
        await session.execute(
            select(FeatureIndex.id, SequenceSet.sha256)
            .join(SequenceSet, SequenceSet.id == FeatureIndex.sequence_set_id)
            .where(FeatureIndex.sae_id == sae_id)
            .order_by(FeatureIndex.id)
        )
    ).all()
    ids = tuple(index.id for index in indexes)
    return SaeContents(
        labels=labels,
        authors=authors,
        label_sets=await session.scalar(select(func.count()).where(LabelSet.sae_id == sae_id)) or 0,
        decisions=await _in_sets(session, sae_id, LabelDecision.label_set_id),
        comments=await _in_sets(session, sae_id, Comment.label_set_id),
        blind_tests=await _in_sets(session, sae_id, BlindTest.label_set_id),
        list_entries=entries,
        lists=lists,
        saved_probes=await session.scalar(select(func.count()).where(SavedProbe.sae_id == sae_id)) or 0,
        edits=await edits_of_sae(session, sae_id),
        readings=tuple(await session.scalars(select(TextSetReading.key).where(TextSetReading.sae_id == sae_id))),
        text_comparisons=await session.scalar(select(func.count()).where(TextComparison.sae_id == sae_id)) or 0,
        monitors=await session.scalar(select(func.count()).where(SavedMonitor.sae_id == sae_id)) or 0,
        audits=await session.scalar(select(func.count()).where(Audit.sae_id == sae_id)) or 0,
        compared_with=tuple(compared),
        runs=await session.scalar(select(func.count()).where(Run.sae_id == sae_id)) or 0,
        index_ids=ids,
        sequences_sha256=tuple(dict.fromkeys(index.sha256 for index in indexes)),
        table_bytes=await _table_bytes(session, ids),
    )


async def _in_sets(session: AsyncSession, sae_id: int, set_id: InstrumentedAttribute[int]) -> int:
    """Count the rows that belong to the label sets of an SAE."""
    of_sae = select(func.count()).where(LabelSet.sae_id == sae_id, LabelSet.id == set_id)
    return await session.scalar(of_sae) or 0


async def _table_bytes(session: AsyncSession, index_ids: Sequence[int]) -> int:
    names = [f"{table}_{index}" for index in index_ids for table in ("feature", "example_band")]
    query = text(
        "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0) FROM unnest(CAST(:names AS text[])) name"
    )
    return int(await session.scalar(query, {"names": names}) or 0)


async def delete_indexes(session: AsyncSession, sae_id: int, index_ids: Sequence[int]) -> None:
    """Delete all indexes of an SAE, with their partitions and map. Call `exclude_readers` before."""
    for index in index_ids:
        for table in ("feature", "example_band"):
            await session.execute(text(f"DROP TABLE IF EXISTS {table}_{index}"))
    await session.execute(delete(FeatureIndex).where(FeatureIndex.sae_id == sae_id))


async def delete_sae(session: AsyncSession, sae_id: int, index_ids: Sequence[int]) -> None:
    """Delete an SAE with all that belongs to it; lists that lose features get a new version."""
    await delete_indexes(session, sae_id, index_ids)
    changed = select(SavedListItem.list_id).where(SavedListItem.sae_id == sae_id)
    await session.execute(
        update(SavedList)
        .where(SavedList.id.in_(changed))
        .values(version=SavedList.version + 1, updated_at=func.now())
        .execution_options(synchronize_session=False)
    )
    await session.execute(delete(Sae).where(Sae.id == sae_id))


async def list_models(session: AsyncSession) -> list[ModelInfo]:
    """Return all models, by name."""
    return [model_info(model) for model in await session.scalars(select(LanguageModel).order_by(LanguageModel.name))]


async def list_corpora(session: AsyncSession) -> list[CorpusInfo]:
    """Return all corpora, by name and version."""
    return [corpus_info(row) for row in await session.scalars(select(Corpus).order_by(Corpus.slug, Corpus.version))]


async def saes_of_model(session: AsyncSession, model_id: int) -> list[str]:
    """Return the names of a model's SAEs."""
    return list(await session.scalars(select(Sae.slug).where(Sae.model_id == model_id).order_by(Sae.slug)))


async def saes_indexed_on(session: AsyncSession, corpus_id: int) -> list[str]:
    """Return the names of the SAEs whose published index is of a corpus."""
    return list(
        await session.scalars(
            select(Sae.slug)
            .join(FeatureIndex, FeatureIndex.id == Sae.current_index_id)
            .join(SequenceSet, SequenceSet.id == FeatureIndex.sequence_set_id)
            .where(SequenceSet.corpus_id == corpus_id)
            .order_by(Sae.slug)
        )
    )


async def saes_by_model(session: AsyncSession) -> dict[int, list[str]]:
    """Return the names of the SAEs of each model that has any."""
    rows = await session.execute(select(Sae.model_id, Sae.slug).order_by(Sae.model_id, Sae.slug))
    return {number: [slug for _, slug in group] for number, group in groupby(rows, key=itemgetter(0))}


async def saes_by_corpus(session: AsyncSession) -> dict[int, list[str]]:
    """Return the names of the SAEs whose published index is of each corpus, where there are any."""
    rows = await session.execute(
        select(SequenceSet.corpus_id, Sae.slug)
        .join(FeatureIndex, FeatureIndex.sequence_set_id == SequenceSet.id)
        .join(Sae, Sae.current_index_id == FeatureIndex.id)
        .order_by(SequenceSet.corpus_id, Sae.slug)
    )
    return {number: [slug for _, slug in group] for number, group in groupby(rows, key=itemgetter(0))}


@dataclass(frozen=True, slots=True)
class TextSize:
    """Size of packed text; `tokens` are the counted ones."""

    sequences: int
    tokens: int


async def text_by_model(session: AsyncSession) -> dict[int, TextSize]:
    """Return the size of the text that was packed for each model, where there is any."""
    return await _text_by(session, SequenceSet.model_id)


async def text_by_corpus(session: AsyncSession) -> dict[int, TextSize]:
    """Return the size of the text that was packed from each corpus, where there is any."""
    return await _text_by(session, SequenceSet.corpus_id)


async def _text_by(session: AsyncSession, owner: InstrumentedAttribute[int]) -> dict[int, TextSize]:
    sums = select(owner, func.sum(SequenceSet.sequences), func.sum(SequenceSet.tokens)).group_by(owner)
    return {number: TextSize(int(count), int(tokens)) for number, count, tokens in await session.execute(sums)}


@dataclass(frozen=True, slots=True)
class TextContents:
    """Packed text of a model or a corpus, and the comparisons that were made on it."""

    sets: int
    sequences: int
    tokens: int
    comparisons: int


async def text_contents(
    session: AsyncSession, *, model_id: int | None = None, corpus_id: int | None = None
) -> TextContents:
    """Count the packed text of a model or of a corpus."""
    own = _sets(model_id, corpus_id)
    row = (
        await session.execute(
            select(func.count(), func.sum(SequenceSet.sequences), func.sum(SequenceSet.tokens)).where(
                SequenceSet.id.in_(own)
            )
        )
    ).one()
    comparisons = await session.scalar(select(func.count()).where(Comparison.sequence_set_id.in_(own)))
    return TextContents(row[0], int(row[1] or 0), int(row[2] or 0), comparisons or 0)


async def delete_model(session: AsyncSession, model_id: int) -> None:
    """Delete a model without SAEs, with its vocabulary and packed text."""
    await _delete_sets(session, model_id, None)
    await session.execute(delete(Token).where(Token.model_id == model_id))
    await session.execute(delete(LanguageModel).where(LanguageModel.id == model_id))


async def delete_corpus(session: AsyncSession, corpus_id: int) -> None:
    """Delete a corpus that no published index is of, with its packed text and the rows of indexes that were replaced.

    Call `exclude_readers` before: the partitions of a replaced index may be left.
    """
    await _delete_sets(session, None, corpus_id)
    await session.execute(delete(Corpus).where(Corpus.id == corpus_id))


async def _delete_sets(session: AsyncSession, model_id: int | None, corpus_id: int | None) -> None:
    own = _sets(model_id, corpus_id)
    for index in (await session.scalars(select(FeatureIndex.id).where(FeatureIndex.sequence_set_id.in_(own)))).all():
        for table in ("feature", "example_band"):
            await session.execute(text(f"DROP TABLE IF EXISTS {table}_{index}"))
    for referring in (FeatureIndex, Comparison):
        await session.execute(
            delete(referring).where(referring.sequence_set_id.in_(own)).execution_options(synchronize_session=False)
        )
    await session.execute(
        delete(SequenceSet).where(SequenceSet.id.in_(own)).execution_options(synchronize_session=False)
    )


def _sets(model_id: int | None, corpus_id: int | None) -> Any:
    is_own = SequenceSet.model_id == model_id if corpus_id is None else SequenceSet.corpus_id == corpus_id
    return select(SequenceSet.id).where(is_own).scalar_subquery()


# --- folders that deletions left -----------------------------------------------------------------------------------


async def leave_folders(session: AsyncSession, folders: Collection[str]) -> None:
    """Note folders to remove once this transaction has committed."""
    if folders:
        rows = [{"folder": folder} for folder in folders if storable(folder)]
        await session.execute(insert(DeletedFolder).values(rows).on_conflict_do_nothing())


async def left_folders(session: AsyncSession) -> list[str]:
    """Return the folders that deletions left."""
    return list(await session.scalars(select(DeletedFolder.folder).order_by(DeletedFolder.folder)))


async def forget_folder(session: AsyncSession, folder: str) -> None:
    """Note that a folder is gone, or is needed again."""
    await session.execute(delete(DeletedFolder).where(DeletedFolder.folder == folder))


async def database_bytes(session: AsyncSession) -> int:
    """Return the size of the database."""
    return int(await session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
