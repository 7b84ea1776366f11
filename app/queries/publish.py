"""Publish an index: its features and examples become partitions, which replace the old ones.

One transaction writes the new partitions and makes them current, so a reader sees the old index or the new one, whole,
and a publish that is killed leaves nothing. The retired partitions are dropped after it, once no reader is left that
found them current (`app.queries.saes` holds the table `feature` for that). If the process is killed in between, the
next publish drops them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain, groupby
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

from psycopg.errors import LockNotAvailable
from sqlalchemy import ColumnElement, Double, Table, cast, func, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.queries.saes import lowest_density
from app.queries.search import searched_text
from app.queries.sql.copy import copy_rows
from app.queries.sql.pg_safe import clean_json, clean_text
from app.tables import Base, ExampleBand, Feature, FeatureIndex, Sae, Token
from sae_core.statistics.spec import BY_NAME, DENSITY_BINS, REDUNDANCY_BINS

READERS_TIMEOUT = 5.0
"""Seconds to wait for readers of a retired index before its partitions are left to the next publish."""

LOCK = 0x5EE_1DE
"""First key of the advisory lock that a publish holds; the second is the SAE."""


class FeatureStatisticsRow(SimpleNamespace):
    """The statistics of one feature by name: its `number`, and what `sae_core.statistics.spec` declares.

    Lists have no padding (-1), and those that belong together have equal lengths. Numbers are Python's own
    (`ndarray.tolist()`). A statistic that is not given is null, which those that every index has cannot be.
    """


class ExampleRow(NamedTuple):
    """One example; `positions` and `values` are all non-zero activations of the feature in the sequence."""

    feature: int
    band: int
    rank: int
    sequence: int
    position: int
    activation: float
    positions: Sequence[int]
    values: Sequence[float]


async def publish_index(
    engine: AsyncEngine,
    *,
    sae_id: int,
    sequence_set_id: int,
    tokens: int,
    topics: Sequence[str],
    provenance: Mapping[str, Any],
    features: Iterable[FeatureStatisticsRow],
    examples: Iterable[ExampleRow],
) -> int:
    """Publish an index of an SAE, which replaces its current one, and return its id.

    If an index of the same provenance is current already, it stays, and its id is returned.

    Args:
        engine: without a statement timeout.
        features: in order of their number, one per feature; or some of them, if `provenance` says under "features"
            how many. The others are then missing from the index, which is not the same as dead.
        examples: in order of feature, band and rank.

    Raises:
        ValueError: `examples` are out of order, or a row has a statistic that is not declared.
    """

    async def write(connection: AsyncConnection, index_id: int) -> None:
        vocabulary = await _vocabulary(connection, sae_id)
        async with partition(connection, Feature, index_id) as name:
            rows = _feature_rows(index_id, features, vocabulary)
            await copy_rows(connection, Feature, _FEATURE, rows, into=name, freeze=True)
        async with partition(connection, ExampleBand, index_id) as name:
            await copy_rows(connection, ExampleBand, _BAND, _band_rows(index_id, examples), into=name, freeze=True)

    return await publish_written(
        engine,
        sae_id=sae_id,
        sequence_set_id=sequence_set_id,
        tokens=tokens,
        topics=topics,
        provenance=provenance,
        write=write,
    )


async def publish_written(
    engine: AsyncEngine,
    *,
    sae_id: int,
    sequence_set_id: int,
    tokens: int,
    topics: Sequence[str],
    provenance: Mapping[str, Any],
    write: Callable[[AsyncConnection, int], Awaitable[None]],
) -> int:
    """As `publish_index`, for an index whose partitions `write` creates, given a connection and the index' id."""
    async with engine.connect() as connection, _one_at_a_time(connection, sae_id):
        await _drop_retired(engine, sae_id)
        async with connection.begin():
            await connection.execute(text("SET LOCAL lock_timeout = 0"))
            current = await _current(connection, sae_id, sequence_set_id, provenance)
            if current is not None:
                return current
            index_id = await connection.scalar(
                insert(FeatureIndex)
                .values(
                    sae_id=sae_id,
                    sequence_set_id=sequence_set_id,
                    state="published",
                    tokens=tokens,
                    topics=[clean_text(topic) for topic in topics],
                    provenance=clean_json(provenance),
                )
                .returning(FeatureIndex.id)
            )
            assert isinstance(index_id, int)
            await write(connection, index_id)
            await _count(connection, index_id, tokens)
            await _make_current(connection, sae_id, index_id)
        await _drop_retired(engine, sae_id)
    return index_id


@asynccontextmanager
async def _one_at_a_time(connection: AsyncConnection, sae_id: int) -> AsyncIterator[None]:
    """Exclude other publishes of this SAE."""
    key = {"lock": LOCK, "sae": sae_id}
    async with connection.begin():
        await connection.execute(text("SET LOCAL lock_timeout = 0"))
        await connection.execute(text("SELECT pg_advisory_lock(:lock, :sae)"), key)
    try:
        yield
    finally:
        async with connection.begin():
            await connection.execute(text("SELECT pg_advisory_unlock(:lock, :sae)"), key)


async def _current(
    connection: AsyncConnection, sae_id: int, sequence_set_id: int, provenance: Mapping[str, Any]
) -> int | None:
    """Return the current index if it is of this provenance."""
    return await connection.scalar(
        select(FeatureIndex.id)
        .join(Sae, Sae.current_index_id == FeatureIndex.id)
        .where(
            Sae.id == sae_id,
            FeatureIndex.sequence_set_id == sequence_set_id,
            FeatureIndex.provenance == clean_json(provenance),
        )
    )


async def _vocabulary(connection: AsyncConnection, sae_id: int) -> dict[int, str]:
    """Return the tokens of the SAE's model as they are searched."""
    rows = await connection.execute(
        select(Token.id, Token.bytes).join(Sae, Sae.model_id == Token.model_id).where(Sae.id == sae_id)
    )
    return {number: searched_text(token) for number, token in rows}


_FEATURE = ("index_id", "number", "top_tokens_text", *BY_NAME)
"""Columns in the order of `_feature_rows`."""


def _feature_rows(
    index_id: int, features: Iterable[FeatureStatisticsRow], vocabulary: Mapping[int, str]
) -> Iterator[tuple[Any, ...]]:
    names = tuple(BY_NAME)
    known = {"number", *names}
    for feature in features:
        values = vars(feature)
        if not values.keys() <= known:
            raise ValueError(f"not declared in sae_core/statistics/spec.py: {', '.join(sorted(values.keys() - known))}")
        texts = (vocabulary.get(token, "") for token in feature.top_token_ids)
        yield index_id, feature.number, " ".join(filter(None, texts)), *map(values.get, names)


_BAND = (
    "index_id",
    "feature",
    "band",
    "sequences",
    "positions",
    "activations",
    "lengths",
    "active_positions",
    "active_values",
)
"""Columns in the order of `_band_rows`."""


def _band_rows(index_id: int, examples: Iterable[ExampleRow]) -> Iterator[tuple[Any, ...]]:
    """Yield one row for the examples of each feature and band."""
    last = (-1, -1)
    for key, group in groupby(examples, key=attrgetter("feature", "band")):
        band = list(group)
        if key <= last or [example.rank for example in band] != list(range(len(band))):
            raise ValueError(f"examples of feature {key[0]}, band {key[1]} are out of order")
        last = key
        yield (
            index_id,
            *key,
            [example.sequence for example in band],
            [example.position for example in band],
            [example.activation for example in band],
            [len(example.positions) for example in band],
            list(chain.from_iterable(example.positions for example in band)),
            list(chain.from_iterable(example.values for example in band)),
        )


@asynccontextmanager
async def partition(connection: AsyncConnection, table: type[Base], index_id: int) -> AsyncIterator[str]:
    """Create the partition of `table` for this index, yield its name to be filled, and attach it.

    The partition is a table of its own until all rows are in. Attaching it builds its indexes, compact, and does not
    block readers of the other partitions, as creating it as a partition would.
    """
    described = table.__table__
    assert isinstance(described, Table)
    name = f"{described.name}_{index_id}"
    await connection.execute(text(f"CREATE TABLE {name} (LIKE {described.name})"))
    yield name
    await connection.execute(text(f"ALTER TABLE {described.name} ATTACH PARTITION {name} FOR VALUES IN ({index_id})"))
    await connection.execute(text(f"ANALYZE {name}"))


async def _count(connection: AsyncConnection, index_id: int, tokens: int) -> None:
    """Count, once, what every overview shows of all features."""
    own = Feature.index_id == index_id
    alive = _bin_number(func.log(Feature.density), lowest_density(tokens), 0.0, DENSITY_BINS)
    redundant = _bin_number(Feature.near_cosine[1], 0.0, 1.0, REDUNDANCY_BINS)
    flag = func.unnest(Feature.health)
    flags = select(flag.label("flag"), func.count().label("features")).where(own).group_by(flag)
    health = {row.flag: row.features for row in await connection.execute(flags)}
    dead = await connection.scalar(select(func.count()).select_from(Feature).where(own, Feature.density == 0))
    coherent = await connection.scalar(select(func.count(Feature.coherence)).where(own))
    counts = {
        "density_counts": await _features_per_bin(connection, alive, DENSITY_BINS, own, Feature.density > 0),
        "redundancy_counts": await _features_per_bin(
            connection, redundant, REDUNDANCY_BINS, own, Feature.near_cosine[1].is_not(None)
        ),
    }
    await connection.execute(
        update(FeatureIndex)
        .where(FeatureIndex.id == index_id)
        .values(**counts, dead=dead, coherent=coherent, health=health)
    )


def _bin_number(value: ColumnElement[Any], low: float, high: float, bins: int) -> ColumnElement[int]:
    """The number, from 1, of the bin that a value lies in, of equal bins from `low` to `high`.

    Values beyond an end count to the bin there: width_bucket puts the upper end past the last bin, and by rounding
    perhaps the lower one before the first.
    """
    return func.greatest(1, func.least(func.width_bucket(cast(value, Double), low, high, bins), bins))


async def _features_per_bin(
    connection: AsyncConnection, number: ColumnElement[int], bins: int, *which: ColumnElement[bool]
) -> list[int]:
    """Count the features per bin."""
    rows = await connection.execute(
        select(number.label("bin"), func.count().label("features")).where(*which).group_by(text("bin"))
    )
    found = {row.bin: row.features for row in rows}
    return [found.get(bin_number, 0) for bin_number in range(1, bins + 1)]


async def _make_current(connection: AsyncConnection, sae_id: int, index_id: int) -> None:
    """Replace the SAE's current index by this one; the old one is retired."""
    await connection.execute(
        update(FeatureIndex)
        .where(FeatureIndex.sae_id == sae_id, FeatureIndex.id != index_id, FeatureIndex.state == "published")
        .values(state="retired", retired_at=func.now())
    )
    await connection.execute(update(Sae).where(Sae.id == sae_id).values(current_index_id=index_id))


async def _drop_retired(engine: AsyncEngine, sae_id: int) -> None:
    """Drop the partitions of this SAE's retired indexes; if a reader does not end, leave them to the next publish."""
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        retired = (await connection.execute(_RETIRED, {"sae": sae_id})).all()
        if not retired or not await _readers_end(connection):
            return
        try:
            for table, name, detaching in retired:
                if detaching is not None:
                    how = "FINALIZE" if detaching else "CONCURRENTLY"  # neither blocks new readers
                    await connection.execute(text(f"ALTER TABLE {table} DETACH PARTITION {name} {how}"))
                await connection.execute(text(f"DROP TABLE {name}"))
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise


async def _readers_end(connection: AsyncConnection) -> bool:
    """Wait until all present readers of features have ended; False if that takes too long.

    Detaching waits as well, but only after it has hidden the partition from readers that still need it.
    """
    readers = set((await connection.execute(_READERS)).scalars())
    deadline = time.monotonic() + READERS_TIMEOUT
    while readers:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
        readers &= set((await connection.execute(_READERS)).scalars())
    return True


_READERS = text("""
    SELECT virtualtransaction FROM pg_locks
    WHERE relation = 'feature'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""")

_RETIRED = text("""
    SELECT parent, partition.relname, pg_inherits.inhdetachpending
    FROM feature_index
    CROSS JOIN unnest(ARRAY['feature', 'example_band']) parent
    JOIN pg_class partition ON partition.oid = to_regclass(parent || '_' || feature_index.id)
    LEFT JOIN pg_inherits ON pg_inherits.inhrelid = partition.oid
    WHERE feature_index.sae_id = :sae AND feature_index.state = 'retired'
""")
"""Partitions left of retired indexes; `inhdetachpending` is null if detached, true if detaching was interrupted."""
