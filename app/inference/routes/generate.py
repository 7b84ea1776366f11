"""Generate with and without interventions, and sweep over their strength, as streams of JSON lines."""

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from app.inference import steering
from app.inference.dependencies import Engine, ModelLoads
from app.inference.streaming import streamed
from app.services.inference_messages import GenerateRequest, SweepRequest

router = APIRouter()


@router.post("/generate")
async def generate(request: GenerateRequest, http: Request, engine: Engine, loads: ModelLoads) -> StreamingResponse:
    """Generate in turns."""
    for sae in request.saes:
        await loads.ensure(sae)
    return await streamed(http, steering.generate(engine, request), "generate")


@router.post("/sweep")
async def sweep(request: SweepRequest, http: Request, engine: Engine, loads: ModelLoads) -> StreamingResponse:
    """Measure one strength after the other, in turns."""
    for sae in request.saes:
        await loads.ensure(sae)
    return await streamed(http, steering.sweep(engine, request), "sweep")
