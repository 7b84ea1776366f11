import asyncio
import signal
import subprocess
import sys

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import transaction
from app.queries.feature_list import FeatureFilter, list_features
from app.queries.features import get_feature
from app.queries.publish import ExampleRow, FeatureStatisticsRow, publish_index
from app.queries.saes import get_sae
from app.tables import Feature
from sae_core.statistics.spec import STATISTICS
from tests.factories import Synthetic, add_label, make_sae, publish_features
from tests.synthetic import make_features

Sessions = async_sessionmaker[AsyncSession]


async def tables(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(feature|example_band)_[0-9]'")
        )
        return set(rows.scalars())


async def index_of(sessionmaker: Sessions, made: Synthetic) -> int:
    async with transaction(sessionmaker) as session:
        sae = await get_sae(session, made.sae.slug)
    assert sae
    assert sae.index
    return sae.index.id


async def republish(engine: AsyncEngine, made: Synthetic, seed: int) -> int:
    features = make_features(made.corpus, n=24, seed=seed)
    return await publish_features(engine, made.sae, made.sae.index.sequence_set.id, features)  # type: ignore[union-attr]


def test_the_table_has_a_column_per_declared_statistic() -> None:
    columns = {column.name for column in Feature.__table__.columns}
    assert columns == {"index_id", "number", "top_tokens_text"} | {statistic.name for statistic in STATISTICS}


async def test_a_statistic_that_is_not_declared_is_refused(engine: AsyncEngine, made: Synthetic) -> None:
    rows = [FeatureStatisticsRow(**vars(row), median=1.0) for row in made.features.rows()]
    assert made.sae.index
    with pytest.raises(ValueError, match=r"not declared in .*: median"):
        await publish_index(
            engine,
            sae_id=made.sae.id,
            sequence_set_id=made.sae.index.sequence_set.id,
            tokens=made.features.tokens,
            topics=made.features.topic_names,
            provenance={"seed": 7},
            features=rows,
            examples=[],
        )


async def test_a_new_index_replaces_the_old_one(engine: AsyncEngine, sessionmaker: Sessions, made: Synthetic) -> None:
    async with transaction(sessionmaker) as session:
        await add_label(session, made.sae, 0, "stays")
    old = await index_of(sessionmaker, made)
    new = await republish(engine, made, seed=1)
    assert new != old
    assert await index_of(sessionmaker, made) == new
    assert await tables(engine) == {f"feature_{new}", f"example_band_{new}"}
    async with transaction(sessionmaker) as session:
        sae = await get_sae(session, made.sae.slug)
        assert sae
        feature = await get_feature(session, sae, 0)
        assert feature
        assert [label.explanation for label in feature.labels] == ["stays"]
        states = await session.execute(text("SELECT id, state, retired_at IS NULL FROM feature_index ORDER BY id"))
        assert [tuple(row) for row in states] == [(old, "retired", False), (new, "published", True)]


async def test_publishing_the_same_index_again_changes_nothing(
    engine: AsyncEngine, sessionmaker: Sessions, made: Synthetic
) -> None:
    assert await republish(engine, made, seed=0) == await index_of(sessionmaker, made)


async def test_concurrent_publishes_of_one_sae_are_serialised(engine: AsyncEngine, made: Synthetic) -> None:
    first, second = await asyncio.gather(republish(engine, made, seed=5), republish(engine, made, seed=5))
    assert first == second


async def test_indexes_of_different_saes_are_independent(engine: AsyncEngine, made: Synthetic) -> None:
    other = await make_sae(engine, slug="other")
    await republish(engine, made, seed=1)
    assert other.sae.index
    assert f"feature_{other.sae.index.id}" in await tables(engine)


async def test_partitions_have_every_index_of_their_parent(engine: AsyncEngine, made: Synthetic) -> None:
    assert made.sae.index
    async with engine.connect() as connection:
        found = await connection.execute(
            text(
                "SELECT tablename, count(*) AS indexes FROM pg_indexes "
                "WHERE tablename ~ '^(feature|example_band)(_[0-9]+)?$' GROUP BY 1"
            )
        )
    number = made.sae.index.id
    assert {row.tablename: row.indexes for row in found} == {
        "feature": 10,
        f"feature_{number}": 10,
        "example_band": 1,
        f"example_band_{number}": 1,
    }


async def test_a_reader_keeps_the_index_it_began_with(
    engine: AsyncEngine, sessionmaker: Sessions, made: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that does not end delays the drop of the index that was current when it began, and nothing else."""
    monkeypatch.setattr("app.queries.publish.READERS_TIMEOUT", 0)
    async with sessionmaker() as reader:
        before = await get_sae(reader, made.sae.slug)
        assert before
        new = await republish(engine, made, seed=1)
        assert await index_of(sessionmaker, made) == new
        page = await list_features(reader, before, FeatureFilter(limit=200, sort="index", descending=False))
        assert [row.count for row in page.rows] == [row.count for row in made.features.rows()]
        assert all(row.example for row in page.rows if row.count)
    newest = await republish(engine, made, seed=2)
    assert await tables(engine) == {f"feature_{newest}", f"example_band_{newest}"}


async def test_dropping_an_index_waits_for_its_readers(
    engine: AsyncEngine, sessionmaker: Sessions, made: Synthetic
) -> None:
    old = await index_of(sessionmaker, made)
    async with sessionmaker() as reader:
        await get_sae(reader, made.sae.slug)
        publisher = asyncio.create_task(republish(engine, made, seed=1))
        while await index_of(sessionmaker, made) == old:
            assert not publisher.done()
        assert len(await tables(engine)) == 4
    new = await publisher
    assert await tables(engine) == {f"feature_{new}", f"example_band_{new}"}


async def test_rows_out_of_order_are_refused_and_leave_nothing_behind(
    engine: AsyncEngine, sessionmaker: Sessions, made: Synthetic
) -> None:
    old = await index_of(sessionmaker, made)
    examples = made.features.examples()
    for wrong in (examples[::-1], examples[1:], [*examples, examples[0]]):
        with pytest.raises(ValueError, match="out of order"):
            await publish(engine, made, wrong)
    assert await index_of(sessionmaker, made) == old
    assert await tables(engine) == {f"feature_{old}", f"example_band_{old}"}


async def publish(engine: AsyncEngine, made: Synthetic, examples: list[ExampleRow]) -> int:
    assert made.sae.index
    return await publish_index(
        engine,
        sae_id=made.sae.id,
        sequence_set_id=made.sae.index.sequence_set.id,
        tokens=made.features.tokens,
        topics=made.features.topic_names,
        provenance={"another": True},
        features=made.features.rows(),
        examples=examples,
    )


KILLED = """
import asyncio, os, signal, sys
from app.db import create_engine
from app.queries import publish
from tests.factories import publish_features
from tests.synthetic import make_corpus, make_features

class Sae:
    id = int(sys.argv[2])

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(publish, sys.argv[4], die)
features = make_features(make_corpus(), n=24, seed=7)
asyncio.run(publish_features(create_engine(sys.argv[1]), Sae, int(sys.argv[3]), features))
"""


@pytest.mark.parametrize("at", ["_band_rows", "_make_current"])
async def test_a_killed_publish_can_be_repeated_and_leaves_nothing_behind(
    database_url: str, engine: AsyncEngine, sessionmaker: Sessions, made: Synthetic, at: str
) -> None:
    assert made.sae.index
    old = made.sae.index.id
    arguments = [database_url, str(made.sae.id), str(made.sae.index.sequence_set.id), at]
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert await index_of(sessionmaker, made) == old
    new = await republish(engine, made, seed=7)
    assert new != old
    assert await tables(engine) == {f"feature_{new}", f"example_band_{new}"}
