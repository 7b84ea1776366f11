"""Health checks and metrics, for orchestrators and Prometheus."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from app.errors import Unavailable
from app.queries.health import schema_revision
from app.schema import head
from app.web.dependencies import Session
from app.web.monitor_metrics import monitor_metrics
from app.web.process_metrics import process_metrics

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
    """Return the metrics of the web processes, and those of the inference process, in Prometheus' text format."""
    answer = await request.app.state.inference.metrics()
    up = (
        "# HELP seesae_inference_up 1 if the inference process answers.\n"
        f"# TYPE seesae_inference_up gauge\nseesae_inference_up {int(answer is not None)}\n"
    )
    own = process_metrics(request.app.state.registry)
    monitors = await monitor_metrics(request.app.state.sessionmaker)
    return Response(own + monitors + up + (answer or ""), media_type=CONTENT_TYPE_LATEST)
