"""A database session for a command that is not a run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.settings import Settings


@asynccontextmanager
async def local_session(settings: "Settings") -> "AsyncIterator[AsyncSession]":
    """Yield a session that commits at the end, on the database that the settings name or on the embedded one.

    Raises:
        UserError: the database cannot be reached, or does not start.
    """
    from app.cli.local_runs import local_job_context
    from app.db import transaction

    async with local_job_context(settings) as ctx, transaction(ctx.sessions) as session:
        yield session
