"""Load the newest SAE and its model when the process starts, so that the first probe does not wait for it."""

import asyncio

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import Loading, UserError
from app.inference.loading import Loads
from app.queries.saes import SaeDetail, newest_sae
from app.services.inference_messages import SaeRef
from app.services.inference_status import Preloaded

log = structlog.get_logger("inference")

_PAUSE = 0.1
"""Seconds before a load that goes on is asked for again."""


class Preloading:
    """The load at the start, and what has become of it."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], loads: Loads) -> None:
        self._sessions = sessions
        self._loads = loads
        self.result = Preloaded()

    async def run(self) -> None:
        """Load the newest SAE that has weights, with its model. A failure is kept in `result`, and harms nothing."""
        try:
            async with self._sessions() as session:
                sae = await newest_sae(session)
        except SQLAlchemyError as error:  # a database that is not up yet: the first probe loads
            log.warning("cannot_preload", reason=str(error))
            self.result = Preloaded(state="nothing")
            return
        if sae is None:
            self.result = Preloaded(state="nothing")
            return
        name = sae.model.name
        self.result = Preloaded(state="loading", model=name)
        try:
            await self._load(sae)
        except UserError as error:
            self.result = Preloaded(state="failed", model=name, reason=str(error.__cause__ or error))
        else:
            self.result = Preloaded(state="ready", model=name)

    async def _load(self, sae: SaeDetail) -> None:
        while True:
            try:
                return await self._loads.ensure(SaeRef.of(sae))
            except Loading:
                await asyncio.sleep(_PAUSE)
