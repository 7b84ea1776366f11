"""Continue a text or a conversation for the OpenAI-compatible endpoint, as a stream of JSON lines."""

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.db import transaction
from app.errors import NotFound, Unavailable
from app.inference import completion
from app.inference.dependencies import Engine, ModelLoads, Sessions
from app.inference.streaming import streamed
from app.queries.edits import edit_file
from app.services.inference_messages import CompletionRequest
from sae_core.errors import InterventionError
from sae_core.interventions import Edit

router = APIRouter()


@router.post("/complete")
async def complete(
    request: CompletionRequest, http: Request, engine: Engine, loads: ModelLoads, sessions: Sessions
) -> StreamingResponse:
    """Write in turns."""
    edits = await _edits(sessions, request.edits)
    alert_edit = None if request.alert_edit is None else (await _edits(sessions, [request.alert_edit]))[0]
    for sae in request.saes:
        await loads.ensure(sae)
    return await streamed(http, completion.complete(engine, request, edits, alert_edit), "complete")


async def _edits(sessions: Sessions, names: list[str]) -> list[Edit]:
    """Read saved edits from the database: some are larger than a request may be."""
    if not names:
        return []
    async with transaction(sessions) as session:
        files = {name: await edit_file(session, name) for name in names}
    if gone := [name for name, file in files.items() if file is None]:
        raise NotFound(f"There is no edit “{gone[0]}” any more.")
    try:
        return await run_in_threadpool(completion.parse_edits, [str(file) for file in files.values()], list(files))
    except InterventionError as error:
        raise Unavailable(str(error)) from error
