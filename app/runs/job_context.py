"""The database, the artifacts and the settings of a process that does runs."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.artifacts import Artifacts
from app.settings import Settings


@dataclass(frozen=True)
class JobContext:
    """The context of every job."""

    settings: Settings
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]

    @property
    def artifacts(self) -> Artifacts:
        """Folders of the products of runs."""
        return Artifacts.of(self.settings)
