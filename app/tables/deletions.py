"""Folders that deletions have left to be removed."""

from datetime import datetime

from sqlalchemy import TIMESTAMP, func
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class DeletedFolder(Base):
    """A folder under SEESAE_ARTIFACTS that belonged to what was deleted, until a process that has the files removes it.

    The site may have no access to them, and a transaction cannot remove files.
    """

    __tablename__ = "deleted_folder"

    folder: Mapped[str] = mapped_column(primary_key=True)
    deleted_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
