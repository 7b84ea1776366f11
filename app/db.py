"""Connections to the database."""

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.settings import Settings


def create_engine(database_url: str, *, statement_timeout: float = 30.0) -> AsyncEngine:
    """An engine for `database_url` (as `postgresql://` or `postgresql+psycopg://`); the timeout is in seconds."""
    raise NotImplementedError


def create_sessionmaker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions of `engine`, whose objects outlive their commit."""
    raise NotImplementedError


async def get_session() -> AsyncIterator[AsyncSession]:
    """FastAPI dependency. Use as `Depends(get_session, scope="function")`: commits before the response is sent.

    Reads `request.app.state.sessionmaker`. Raises `Unavailable` when the database is away.
    """
    raise NotImplementedError
    yield
