"""Generate with and without interventions, as a stream of JSON lines."""

import time
from collections.abc import AsyncIterator, Generator

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from app.errors import UserError
from app.inference import steering
from app.inference.dependencies import Engine, ModelLoads, model_turn
from app.inference.model_thread import run_in_model_thread
from app.services.inference_messages import GenerateRequest, GenerationEvent, GenerationFailed

log = structlog.get_logger("inference")

_SLICE_SECONDS = 0.2
"""A turn's length: as long as a probe takes, so that a long text keeps nobody waiting."""

router = APIRouter()


@router.post("/generate")
async def generate(request: GenerateRequest, http: Request, engine: Engine, loads: ModelLoads) -> StreamingResponse:
    """Generate in turns; what is wrong with the request is answered before the stream begins."""
    for sae in request.saes:
        await loads.ensure(sae)
    generation = steering.events(engine, request)
    try:
        first = await _slice(http, generation)
    except BaseException:
        await run_in_model_thread(generation.close)
        raise
    return StreamingResponse(_lines(http, generation, first), media_type="application/x-ndjson")


async def _lines(
    http: Request, generation: Generator[GenerationEvent], events: list[GenerationEvent]
) -> AsyncIterator[bytes]:
    """Yield the events of one slice after the other; a client that goes ends the work, and frees its memory."""
    started, steps = time.perf_counter(), 0
    try:
        while events:
            steps += len(events)
            yield b"".join(event.model_dump_json().encode() + b"\n" for event in events)
            events = await _slice(http, generation, admitted=True)
    except UserError as error:
        yield GenerationFailed(detail=str(error)).model_dump_json().encode() + b"\n"
    finally:
        await run_in_model_thread(generation.close)
        log.info("generate", events=steps, ms=round(1000 * (time.perf_counter() - started), 1))


async def _slice(
    http: Request, generation: Generator[GenerationEvent], *, admitted: bool = False
) -> list[GenerationEvent]:
    async with model_turn(http, admitted=admitted):
        return await run_in_model_thread(_some, generation)


def _some(generation: Generator[GenerationEvent]) -> list[GenerationEvent]:
    """Return the next events, as many as a turn has time for; none at the end."""
    until, events = time.perf_counter() + _SLICE_SECONDS, []
    for event in generation:
        events.append(event)
        if time.perf_counter() > until:
            break
    return events
