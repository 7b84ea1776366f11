"""Bring a database's tables up to date."""

import psycopg

from app.database_url import connection_params, libpq_url
from app.errors import UserError
from app.paths import MIGRATIONS

LOCK = 0x5EE_5AE
"""Key of the advisory lock that lets one process at a time migrate."""

DROP_ALL = """
DO $$
DECLARE command text;
BEGIN
    FOREACH command IN ARRAY ARRAY(
        WITH extension AS (SELECT objid FROM pg_depend WHERE deptype = 'e'),
        drops AS (
            SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                   WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS kind, oid, oid::regclass::text AS name
            FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'c')
            UNION ALL
            SELECT 'ROUTINE', oid, oid::regprocedure::text
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'TYPE', oid, oid::regtype::text
            FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
        )
        SELECT format('DROP %s IF EXISTS %s CASCADE', kind, name)
        FROM drops WHERE oid NOT IN (SELECT objid FROM extension) ORDER BY kind <> 'TABLE'
    ) LOOP
        EXECUTE command;
    END LOOP;
END
$$"""
"""Drops all tables, functions and types of the schema `public` but those of extensions."""


def head() -> str:
    """Return the newest revision; migrations are files named `<revision>_<subject>.py`, numbered in order."""
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def current(database_url: str) -> str | None:
    """Return the database's revision; None if it is empty."""
    with psycopg.connect(libpq_url(database_url), connect_timeout=5) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            return None
    return row[0] if row else None


def is_current(database_url: str) -> bool:
    """True if the database has exactly this version's migrations."""
    return current(database_url) == head()


def upgrade(database_url: str) -> bool:
    """Apply the missing migrations; return True if there were any.

    Many processes may call it at once. It is fast when nothing is missing: then neither alembic nor SQLAlchemy is
    imported.

    Raises:
        UserError: the database was made by a newer version, or its user may not create tables.
    """
    found = current(database_url)
    if found == head():
        return False
    if found is not None and found > head():
        raise UserError(f"This database was made by a newer SeeSAE (schema {found}, here {head()}): update SeeSAE.")

    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, pool, text
    from sqlalchemy.exc import ProgrammingError

    from app.db import DRIVER

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    engine = create_engine(DRIVER, connect_args=connection_params(database_url), poolclass=pool.NullPool)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        raise UserError(
            "The database's user may not create tables: as its owner, GRANT CREATE ON SCHEMA public TO that user."
        ) from error
    return True
