"""Bring a database's tables up to date."""


def upgrade(database_url: str) -> bool:
    """Apply the migrations that are missing; True where there were any.

    Safe to call from many processes at once (advisory lock), and quick when there is nothing to do.
    """
    raise NotImplementedError


def is_current(database_url: str) -> bool:
    """Whether the database has all of this version's migrations."""
    raise NotImplementedError
