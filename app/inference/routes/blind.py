"""Draw a blind test of a feature from the activation store of an SAE's index."""

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from app.db import transaction
from app.errors import NotFound
from app.inference.dependencies import Resident, Sessions, draw_turn
from app.inference.routes.examples import open_store
from app.services.inference_messages import BlindItemsAnswer, BlindItemsRequest
from app.services.saes import find_sae
from app.storage.blind_draw import draw_blind_items

router = APIRouter()


@router.post("/blind", dependencies=[Depends(draw_turn)])
async def blind(request: BlindItemsRequest, sessions: Sessions, residency: Resident) -> BlindItemsAnswer:
    """Return the items of a test with the truth, for the site to keep."""
    async with transaction(sessions) as session:
        sae = await find_sae(session, request.sae)
    if sae.index is None:
        raise NotFound("There is no such feature.")
    store = await run_in_threadpool(open_store, residency, sae, sae.index)
    async with transaction(sessions) as session:
        items = await draw_blind_items(
            session,
            sae,
            store,
            request.feature,
            kind=request.kind,
            seed=request.seed,
            items=request.items,
            without=request.without,
        )
    return BlindItemsAnswer(index=sae.index.id, items=items)
