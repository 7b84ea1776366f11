"""The embedded Postgres: a real server under the home folder, on a unix socket only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def embedded_postgres(home: Path) -> Iterator[str]:
    """Run Postgres with its data under `home/postgres` and yield its URL (`postgresql+psycopg://…`).

    For the owner of the database, the supervisor or a command that runs alone; the owner's children are given the URL
    as SEESAE_DATABASE_URL. If another process already runs this database, it is shared; the last one to leave stops it.
    """
    raise NotImplementedError
    yield


@contextmanager
def database(home: Path, database_url: str | None) -> Iterator[str]:
    """The database to use: the one at `database_url` if there is one, else the embedded one. Yields its URL.

    Raises:
        UserError: the database cannot be reached, is not Postgres, or is older than 15.
    """
    raise NotImplementedError
    yield
