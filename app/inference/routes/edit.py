"""Write interventions as the file of an edit."""

from fastapi import APIRouter, Request

from app.inference import steering
from app.inference.dependencies import Engine, ModelLoads, model_turn
from app.inference.model_thread import run_in_model_thread
from app.services.inference_messages import EditAnswer, EditRequest

router = APIRouter()


@router.post("/edit")
async def edit(request: EditRequest, http: Request, engine: Engine, loads: ModelLoads) -> EditAnswer:
    """Return the file: it holds the vectors of the SAEs, which the site does not read."""
    for sae in request.saes:
        await loads.ensure(sae)
    async with model_turn(http):
        return EditAnswer(file=await run_in_model_thread(steering.edit_file, engine, request))
