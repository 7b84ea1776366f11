"""Scratch database of `seesae bench web`: model, corpus, SAEs, published indexes and labels, all synthetic."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from app.bench import synthetic
from app.bench.synthetic import SyntheticIndex
from app.database_url import libpq_url
from app.db import create_sessionmaker, transaction
from app.errors import UserError
from app.queries.corpora import CorpusRow, DocumentRow, SequenceSetRow, register_corpus, register_sequences
from app.queries.label_sets import ensure_set
from app.queries.labels import add_labels
from app.queries.models import ModelRow, register_model
from app.queries.publish import partition, publish_written
from app.queries.saes import SaeRow, register_sae
from app.queries.search import searched_text
from app.queries.sql.copy import copy_encoded
from app.tables import ExampleBand, Feature

Notify = Callable[[str], None]

_SCRATCH = "seesae_bench_"
_BYTES_PER_FEATURE = 6_500
_LOG_BYTES = 1_200_000_000
"""Size to which Postgres' write-ahead log grows during many writes."""
_LABEL = "Tokens about {word}, most often where {other} comes before, in any spelling"


@dataclass(frozen=True)
class Plan:
    """Size of the site, number of clients and of web processes, and duration.

    Clients pause for `pause` s on average between two pages.
    """

    saes: int = 16
    features: int = 65_536
    clients: int = 32
    seconds: float = 20.0
    pause: float = 1.0
    processes: int = 1


def check_disk(server: str, plan: Plan) -> None:
    """Refuse a plan that does not fit on the server's disk; a server on another machine is not checked.

    Raises:
        UserError: it does not fit; the message states what is needed and what is free.
    """
    features = plan.saes * plan.features
    needed = features * _BYTES_PER_FEATURE + min(_LOG_BYTES, features * _BYTES_PER_FEATURE)
    with psycopg.connect(libpq_url(server)) as connection:
        try:
            row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.errors.InsufficientPrivilege:
            return
    folder = Path(row[0]) if row else Path()
    if not row or not folder.exists():
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{features:,} features need {needed / 1e9:.1f} GB on the database's disk, and {free / 1e9:.1f} GB are "
            "free: ask for fewer with --saes or --features."
        )


@contextmanager
def scratch_database(server: str, notify: Notify) -> Iterator[str]:
    """Create a database on the server, and drop it at the end; first drop those of killed benchmarks."""
    name = f"{_SCRATCH}{os.getpid()}"
    url = libpq_url(server, dbname=name)
    with psycopg.connect(libpq_url(server), autocommit=True) as connection:
        _drop_left_over(connection)
        create = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
        connection.execute(sql.SQL(create).format(sql.Identifier(name)))
        try:
            with psycopg.connect(libpq_url(url), autocommit=True):  # marks the database as in use
                yield url
        finally:
            notify(f"Dropping the scratch database {name}.")
            _drop(connection, name)


def _drop_left_over(connection: psycopg.Connection[Any]) -> None:
    unused = """
        SELECT datname FROM pg_database
        WHERE starts_with(datname, %s) AND NOT EXISTS (SELECT FROM pg_stat_activity activity
                                                       WHERE activity.datid = pg_database.oid)
    """
    for (name,) in connection.execute(unused, [_SCRATCH]).fetchall():
        _drop(connection, name)


def _drop(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


async def fill(engine: AsyncEngine, plan: Plan, notify: Notify) -> NDArray[np.str_]:
    """Register a model and a corpus, and publish an index per SAE; return the searchable text of each token."""
    tokens = synthetic.vocabulary()
    words = np.array([searched_text(token) for token in tokens])
    async with transaction(create_sessionmaker(engine)) as session:
        model_id, sequence_set_id = await _register_corpus(session, tokens)
    started = time.monotonic()
    for number in range(plan.saes):
        index = SyntheticIndex(plan.features, number, words)
        async with transaction(create_sessionmaker(engine)) as session:
            sae_id = await _register_sae(session, model_id, number, plan.features)
        await _publish(engine, sae_id, sequence_set_id, index)
        await _label(engine, sae_id, index)
        done, seconds = number + 1, time.monotonic() - started
        left = seconds / done * (plan.saes - done)
        rate = done * plan.features / seconds
        notify(f"SAE {done} of {plan.saes}: {rate:,.0f} features/s, {left:.0f} s left to fill.")
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for table in ("label", "label_revision", "sequence", "document", "token", "sae", "feature_index"):
            await connection.execute(text(f"VACUUM ANALYZE {table}"))
    return words


def slug(number: int) -> str:
    """Return the slug of an SAE."""
    return f"bench-{number}"


async def _register_corpus(session: AsyncSession, tokens: list[bytes]) -> tuple[int, int]:
    model = await register_model(
        session,
        ModelRow(
            name="bench",
            source="made up",
            n_layers=2,
            d_model=16,
            vocab_size=len(tokens),
            weights_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
            bos_token_id=0,
        ),
        token_bytes=tokens,
        special_token_ids={0},
    )
    documents = [
        DocumentRow(f"Document {number}", synthetic.TOPICS[number % len(synthetic.TOPICS)])
        for number in range(2 * synthetic.SEQUENCES)
    ]
    corpus = await register_corpus(
        session,
        CorpusRow(
            slug="bench",
            title="Made-up words",
            source="made up",
            licence="CC0-1.0",
            attribution="Nobody wrote these words.",
            sha256="0" * 64,
            documents=len(documents),
        ),
    )
    sequences = await register_sequences(
        session,
        SequenceSetRow(
            corpus_id=corpus.id, model_id=model.id, length=synthetic.LENGTH, tokens=synthetic.COUNTED, sha256="0" * 64
        ),
        documents=documents,
        sequences=synthetic.sequences(seed=0),
    )
    return model.id, sequences.id


async def _register_sae(session: AsyncSession, model_id: int, number: int, features: int) -> int:
    sae = await register_sae(
        session,
        SaeRow(
            slug=slug(number),
            model_id=model_id,
            hook=f"resid_post.{number}",
            architecture="batchtopk",
            d_in=16,
            d_sae=features,
            k=32,
            artifact=slug(number),
            weights_sha256="0" * 64,
            config={},
            metrics={"explained_variance": 0.8, "l0": 32.0},
            created_by="bench",
        ),
    )
    return sae.id


async def _publish(engine: AsyncEngine, sae_id: int, sequence_set_id: int, index: SyntheticIndex) -> None:
    async def write(connection: AsyncConnection, index_id: int) -> None:
        for table, rows in ((Feature, index.feature_rows), (ExampleBand, index.band_rows)):
            async with partition(connection, table, index_id) as name:
                await copy_encoded(connection, synthetic.columns_of(table), rows(index_id), into=name, freeze=True)

    await publish_written(
        engine,
        sae_id=sae_id,
        sequence_set_id=sequence_set_id,
        tokens=synthetic.COUNTED,
        topics=synthetic.TOPICS,
        provenance={"made up": index.seed},
        write=write,
    )


async def _label(engine: AsyncEngine, sae_id: int, index: SyntheticIndex) -> None:
    """Write one label, in its first version, for some features."""
    random = np.random.default_rng((index.seed, 5))
    labels = []
    for feature in index.labelled().tolist():
        word, other = index.words[synthetic.frequent_tokens(random, (2,))].tolist()
        labels.append((feature, "bench", _LABEL.format(word=word, other=other)))
    async with transaction(create_sessionmaker(engine)) as session:
        label_set = await ensure_set(session, sae_id)
        await add_labels(session, sae_id, label_set.id, labels)


async def size_of(engine: AsyncEngine) -> int:
    """Return the bytes of statistics, examples and labels, with their indexes."""
    of_partitions = select(func.sum(func.pg_total_relation_size(text("relid")))).select_from(
        text("unnest(ARRAY['feature', 'example_band']::regclass[]) parent, pg_partition_tree(parent)")
    )
    async with engine.connect() as connection:
        partitions = await connection.scalar(of_partitions)
        labels = await connection.scalar(
            select(func.pg_total_relation_size("label") + func.pg_total_relation_size("label_revision"))
        )
    return int(partitions or 0) + int(labels or 0)
