"""Work that is streamed as JSON lines, a turn of the model at a time."""

import time
from collections.abc import AsyncIterator, Generator

import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.errors import UserError
from app.inference.dependencies import model_turn
from app.inference.model_thread import run_in_model_thread
from app.services.inference_messages import GenerationFailed

log = structlog.get_logger("inference")

_SLICE_SECONDS = 0.2
"""A turn's length: as long as a probe takes, so that long work keeps nobody waiting."""

Work = Generator[BaseModel | None]
"""Yields events, or None where it can be interrupted."""


async def streamed(http: Request, work: Work, name: str) -> StreamingResponse:
    """Do the work in turns; what is wrong with the request is answered before the stream begins."""
    try:
        first = await _slice(http, work)
    except BaseException:
        await run_in_model_thread(work.close)
        raise
    return StreamingResponse(_lines(http, work, first, name), media_type="application/x-ndjson")


async def _lines(http: Request, work: Work, part: tuple[list[BaseModel], bool], name: str) -> AsyncIterator[bytes]:
    """Yield the events of one slice after the other; a client that goes ends the work, and frees its memory."""
    started, steps = time.perf_counter(), 0
    try:
        events, ended = part
        while True:
            steps += len(events)
            if events:
                yield b"".join(event.model_dump_json().encode() + b"\n" for event in events)
            if ended:
                break
            events, ended = await _slice(http, work, admitted=True)
    except UserError as error:
        yield GenerationFailed(detail=str(error)).model_dump_json().encode() + b"\n"
    finally:
        await run_in_model_thread(work.close)
        log.info(name, events=steps, ms=round(1000 * (time.perf_counter() - started), 1))


async def _slice(http: Request, work: Work, *, admitted: bool = False) -> tuple[list[BaseModel], bool]:
    async with model_turn(http, admitted=admitted):
        return await run_in_model_thread(_some, work)


def _some(work: Work) -> tuple[list[BaseModel], bool]:
    """Return the next events, as many as a turn has time for, and whether they are the last."""
    until, events = time.perf_counter() + _SLICE_SECONDS, []
    for event in work:
        if event is not None:
            events.append(event)
        if time.perf_counter() > until:
            return events, False
    return events, True
