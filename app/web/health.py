"""Health checks and metrics, for orchestrators and Prometheus."""

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
    """Answer 200 while the process runs; other services are not checked."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz(session: Session) -> PlainTextResponse:
    """Answer 200 if the database is reachable and at this version's migration, else 503."""
    applied, needed = await schema_revision(session), head()
    if applied != needed:
        raise Unavailable(
            f"The database is at migration {applied}, this version needs {needed}: run seesae db upgrade."
        )
    return PlainTextResponse("ready\n")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the metrics of this web process in Prometheus' text format."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
