import subprocess
import sys
import time
from dataclasses import replace

import procrastinate
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from procrastinate import PsycopgConnector
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database_url import libpq_url
from app.db import create_sessionmaker, transaction
from app.errors import UserError
from app.paths import MIGRATIONS
from app.pipeline.stages import COMPARISON, INDEXING
from app.queries.runs import Stage, create_run, fail_run, get_run
from app.queries.saes import get_sae
from app.runs.spec import StageSpec
from app.schema import current, head, is_current, upgrade
from app.tables import Base
from tests.factories import make_sae

OLD_ROWS = """
    DROP INDEX ux_language_model_hashes;
    ALTER TABLE corpus DROP CONSTRAINT uq_corpus_sha256;
    INSERT INTO language_model (name, source, n_layers, d_model, vocab_size, weights_sha256, tokenizer_sha256)
    VALUES ('tiny', 'a', 1, 1, 1, 'w', 't'), ('copy', 'b', 1, 1, 1, 'w', 't'), ('other', 'c', 1, 1, 1, 'v', 't'),
        ('x (no weights)', 'x', 0, 0, 1, 'none', 'none'), ('y (no weights)', 'y', 0, 0, 1, 'none', 'none');
    INSERT INTO token (model_id, id, bytes) SELECT id, 0, 'a' FROM language_model;
    INSERT INTO corpus (slug, title, source, licence, attribution, sha256, documents)
    VALUES ('wiki', 'Wiki', 's', '', '', '1', 1), ('copy', 'Copy', 's', '', '', '1', 1);
    INSERT INTO sequence_set (corpus_id, model_id, length, sequences, tokens, sha256)
    SELECT corpus.id, model.id, 8, 1, 1, corpus.slug || model.name FROM corpus, language_model AS model;
    INSERT INTO sae
        (slug, model_id, hook, architecture, d_in, d_sae, artifact, weights_sha256, config, metrics, created_by)
    SELECT name, id, 'h', 'topk', 1, 1, '', 'w', '{}', '{}', 'ada' FROM language_model
"""
"""Two rows of one model and of one text, as databases before 0009 may have them."""


def test_migrating_an_empty_database_creates_all_tables(empty_database_url: str) -> None:
    assert current(empty_database_url) is None
    assert upgrade(empty_database_url)
    assert is_current(empty_database_url)


def test_upgrading_a_current_database_is_quick(database_url: str) -> None:
    start = time.perf_counter()
    assert not upgrade(database_url)
    assert time.perf_counter() - start < 0.3


def test_migrated_tables_match_the_models(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_object": lambda _, name, *rest: not (name or "").startswith(("procrastinate", "idx_procra")),
            },
        )
        differences = [
            difference
            for difference in compare_metadata(context, Base.metadata)
            if difference[0][0] != "modify_comment"  # the migration has them, for who reads the database
        ]
    engine.dispose()
    assert differences == []


def test_the_newest_file_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == head()


@pytest.mark.slow
def test_processes_that_start_together_migrate_once(empty_database_url: str) -> None:
    command = [sys.executable, "-c", "import sys; from app.schema import upgrade; upgrade(sys.argv[1])"]
    together = [subprocess.Popen([*command, empty_database_url], stderr=subprocess.PIPE) for _ in range(3)]
    for process in together:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr.decode()
    assert is_current(empty_database_url)


def test_a_newer_database_is_refused(database_url: str) -> None:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UserError, match=r"newer SeeSAE.*9999"):
        upgrade(database_url)


def test_a_missing_privilege_is_named(empty_database_url: str) -> None:
    with psycopg.connect(libpq_url(empty_database_url), autocommit=True) as connection:
        connection.execute("CREATE ROLE visitor LOGIN")
    url = libpq_url(empty_database_url, user="visitor")
    with pytest.raises(UserError, match="GRANT CREATE"):
        upgrade(url)


async def test_the_queue_works_in_a_migrated_database(database_url: str) -> None:
    app = procrastinate.App(connector=PsycopgConnector(conninfo=libpq_url(database_url)))

    @app.task(name="count")
    async def count(of: int) -> int:
        return of

    async with app.open_async():
        job = await count.defer_async(of=3)
        await app.run_worker_async(wait=False)
        assert await app.job_manager.get_job_status_async(job) == procrastinate.jobs.Status.SUCCEEDED


def test_the_schema_of_the_queue_has_the_installed_version(database_url: str) -> None:
    with psycopg.connect(libpq_url(database_url)) as connection:
        row = connection.execute("SELECT obj_description('procrastinate_jobs'::regclass)").fetchone()
    assert row == (f"procrastinate {procrastinate.__version__}",)


async def test_counts_migrated_from_an_older_index_equal_published_counts(engine: AsyncEngine) -> None:
    made = await make_sae(engine, features=80)
    assert made.sae.index
    forgotten = "UPDATE feature_index SET density_counts = '{}', dead = 0, health = '{}'"
    revision = ScriptDirectory(str(MIGRATIONS)).get_revision("0003")

    def fill_overview(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            revision.module.fill_overview()

    async with engine.begin() as connection:
        await connection.execute(text(forgotten))
        await connection.run_sync(fill_overview)
    async with transaction(create_sessionmaker(engine)) as session:
        assert await get_sae(session, made.sae.slug) == made.sae


MAP_THEN = replace(INDEXING[-1], unit="")  # it counted nothing when the migration was written


@pytest.mark.parametrize(("number", "stage"), [("0005", MAP_THEN), ("0006", COMPARISON[0])])
async def test_runs_from_before_a_new_stage_receive_it(engine: AsyncEngine, number: str, stage: StageSpec) -> None:
    *indexing, added = (Stage(entry.name, entry.title, unit=entry.unit) for entry in (*INDEXING, stage))
    sessions = create_sessionmaker(engine)
    async with transaction(sessions) as session:
        asked = {"kind": "index", "title": "Index", "params": {}, "stages": indexing, "created_by": "ada"}
        run = await create_run(session, **asked)
        await fail_run(session, run.id, "No room.")
    revision = ScriptDirectory(str(MIGRATIONS)).get_revision(number)

    def add_stage(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            revision.module.add_stage()

    async with engine.begin() as connection:
        await connection.run_sync(add_stage)
    async with transaction(sessions) as session:
        found = await get_run(session, run.id)
    assert found is not None
    assert found.stages == (*indexing, added)


async def test_rows_of_one_model_and_of_one_text_become_one(engine: AsyncEngine) -> None:
    revision = ScriptDirectory(str(MIGRATIONS)).get_revision("0009")

    def merge(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            revision.module.merge_models()
            revision.module.merge_corpora()

    async with engine.begin() as connection:
        for statement in OLD_ROWS.split(";"):
            await connection.exec_driver_sql(statement)
        await connection.run_sync(merge)
        models = await connection.execute(text("SELECT name FROM language_model ORDER BY id"))
        saes = await connection.execute(text("SELECT slug, name FROM sae JOIN language_model AS m ON m.id = model_id"))
        texts = await connection.execute(text("SELECT slug, version FROM corpus"))
        sets = await connection.execute(text("SELECT count(*), count(DISTINCT corpus_id) FROM sequence_set"))
    kept = ["tiny", "other", "x (no weights)", "y (no weights)"]
    assert list(models.scalars()) == kept
    assert {(row.slug, row.name) for row in saes} == {("copy", "tiny"), *((name, name) for name in kept)}
    assert [tuple(row) for row in texts] == [("wiki", 1)]
    assert tuple(sets.one()) == (10, 1)
