"""What machines ask: is the process up, can it serve, what did it do."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.errors import Unavailable
from app.queries.health import schema_revision
from app.schema import head
from app.web.dependencies import Session

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> PlainTextResponse:
    """The process is up; it asks nothing of the others."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz(session: Session) -> PlainTextResponse:
    """The database is reachable and at this version's migration. (503 otherwise.)"""
    applied, needed = await schema_revision(session), head()
    if applied != needed:
        raise Unavailable(
            f"The database is at migration {applied}, this version needs {needed}: run seesae db upgrade."
        )
    return PlainTextResponse("ready\n")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format, of this one web process."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
