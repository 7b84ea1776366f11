"""What a process that does runs holds: the database, the artifacts and the settings."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.artifacts import Artifacts
from app.settings import Settings


@dataclass(frozen=True)
class JobContext:
    """Handed to every job."""

    settings: Settings
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]

    @property
    def artifacts(self) -> Artifacts:
        """Folders for what runs make."""
        return Artifacts(self.settings.artifacts)
