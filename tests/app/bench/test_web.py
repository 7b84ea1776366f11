import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from app.bench.scratch_database import Plan, check_disk, fill, scratch_database, slug
from app.database_url import libpq_url
from app.db import create_engine, create_sessionmaker, transaction
from app.errors import UserError
from app.queries.examples import get_examples
from app.queries.feature_list import FeatureFilter, list_features
from app.queries.features import get_feature
from app.queries.saes import get_sae
from app.schema import upgrade

COMMAND = [sys.executable, "-m", "app.cli", "bench", "web", "--saes", "2", "--features", "256", "--clients", "4"]


@pytest.fixture
def environment(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SEESAE_DATABASE_URL", postgres_url)
    yield
    assert scratch_databases(postgres_url) == set()


def scratch_databases(server: str) -> set[str]:
    with psycopg.connect(libpq_url(server)) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, 'seesae_bench_')")
        return {name for (name,) in rows}


async def test_synthetic_index_is_consistent(postgres_url: str) -> None:
    """Postgres reads back what numpy encoded, and no array of a feature contradicts another."""
    with scratch_database(postgres_url, notify=lambda line: None) as url:
        await asyncio.to_thread(upgrade, url)
        engine = create_engine(url)
        await fill(engine, Plan(saes=1, features=512), notify=lambda line: None)
        async with transaction(create_sessionmaker(engine)) as session:
            sae = await get_sae(session, slug(0))
            assert sae
            assert sae.index
            assert sum(sae.index.densities.counts) + sae.index.densities.dead == 512
            assert sae.index.health["dead"] == sae.index.densities.dead > 0
            listed = await list_features(session, sae, FeatureFilter(limit=200))
            assert listed.total == 512
            coherence = [row.coherence for row in listed.rows if row.coherence is not None]
            assert 0 < sae.index.coherent < 512
            assert len(coherence) == 200
            assert coherence == sorted(coherence, reverse=True)
            assert 0 < (await list_features(session, sae, FeatureFilter(label="labelled"))).total == sae.labelled
            word = listed.rows[0].top_tokens[0].bytes.decode().strip()
            assert listed.rows[0].index in {
                row.index for row in (await list_features(session, sae, FeatureFilter(q=word, limit=200))).rows
            }
            for row in listed.rows[::20]:
                feature = await get_feature(session, sae, row.index)
                assert feature
                assert len(feature.promoted) == len(feature.suppressed) == 15
                examples = await get_examples(session, sae, row.index)
                assert len(examples) in (6, 45)
                for example in examples:
                    own = example.tokens[example.position]
                    assert own.activation == pytest.approx(example.activation)
        await engine.dispose()
    assert scratch_databases(postgres_url) == set()


@pytest.mark.usefixtures("environment")
def test_bench_web_prints_json_and_drops_its_database() -> None:
    done = subprocess.run(
        [*COMMAND, "--seconds", "3", "--pause", "0.2", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["features"], result["clients"], result["errors"]) == (512, 4, 0)
    assert 0 < result["feature_p95_ms"] < 5_000
    assert 0 < result["web_cpu_ms"] < result["machine_cpu_ms"]
    assert 0 < result["list_p95_ms"] < 5_000
    assert 2_000 < result["bytes_per_feature"] < 9_000  # each index takes pages of 8 kB, however few labels
    assert "left to fill" in done.stderr


@pytest.mark.usefixtures("environment")
def test_ctrl_c_drops_the_scratch_database(postgres_url: str) -> None:
    with subprocess.Popen([*COMMAND, "--seconds", "60"], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        for line in running.stderr:
            if "clients browse" in line:
                assert scratch_databases(postgres_url)
                running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130


def test_a_plan_larger_than_the_disk_is_refused(postgres_url: str) -> None:
    with pytest.raises(UserError, match=r"features need .* GB .* are free"):
        check_disk(postgres_url, Plan(saes=1000, features=1_000_000_000))


def test_only_abandoned_scratch_databases_are_dropped(postgres_url: str) -> None:
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as connection:
        connection.execute("CREATE DATABASE seesae_bench_1")
    with scratch_database(postgres_url, notify=lambda line: None):
        ours = scratch_databases(postgres_url)
        assert "seesae_bench_1" not in ours
        with psycopg.connect(libpq_url(postgres_url), autocommit=True) as connection:
            from app.bench.scratch_database import _drop_left_over

            _drop_left_over(connection)
        assert scratch_databases(postgres_url) == ours
