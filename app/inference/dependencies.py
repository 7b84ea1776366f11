"""Dependencies of the routes: the process' state, the SAE of a request, and the check of the secret."""

import hmac
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated

from fastapi import Depends, Header, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.exceptions import HTTPException

from app.inference.engine import ProbeEngine
from app.inference.loading import Loads
from app.inference.metrics import InferenceMetrics
from app.inference.residency import Residency
from app.inference.scheduler import Scheduler, Turn
from app.services.inference import CLIENT_HEADER
from app.services.inference_status import SECRET_HEADER


async def _sessions(request: Request) -> async_sessionmaker[AsyncSession]:
    sessions: async_sessionmaker[AsyncSession] = request.app.state.sessions
    return sessions


async def _residency(request: Request) -> Residency:
    residency: Residency = request.app.state.residency
    return residency


async def _engine(request: Request) -> ProbeEngine:
    engine: ProbeEngine = request.app.state.probe_engine
    return engine


async def _loads(request: Request) -> Loads:
    loads: Loads = request.app.state.loads
    return loads


@asynccontextmanager
async def model_turn(request: Request, *, admitted: bool = False) -> AsyncIterator[Turn]:
    """Wait for a turn at the one model that runs, and hold it in the body; `admitted` work has had a turn before."""
    async with _turn(request, request.app.state.scheduler, admitted) as turn:
        yield turn


async def draw_turn(request: Request) -> AsyncIterator[None]:
    """Hold one of the turns of draws while the request is answered."""
    async with _turn(request, request.app.state.draw_scheduler):
        yield


def _turn(request: Request, scheduler: Scheduler, admitted: bool = False) -> AbstractAsyncContextManager[Turn]:
    return scheduler.take(request.headers.get(CLIENT_HEADER, ""), request.receive, admitted=admitted)


async def timed(request: Request) -> AsyncIterator[None]:
    """Measure how long the request takes, waiting included."""
    metrics: InferenceMetrics = request.app.state.metrics
    with metrics.seconds.labels(request.scope["route"].path.strip("/")).time():
        yield


Sessions = Annotated[async_sessionmaker[AsyncSession], Depends(_sessions)]
Resident = Annotated[Residency, Depends(_residency)]
Engine = Annotated[ProbeEngine, Depends(_engine)]
ModelLoads = Annotated[Loads, Depends(_loads)]


async def require_secret(request: Request, secret: Annotated[str, Header(alias=SECRET_HEADER)] = "") -> None:
    """Refuse a request without the secret; the comparison takes constant time, so timing reveals nothing."""
    if not hmac.compare_digest(secret.encode(), request.app.state.secret):
        raise HTTPException(403, f"The header {SECRET_HEADER} must hold SEESAE_INFERENCE_SECRET.")
