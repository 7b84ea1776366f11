"""Tell which model was loaded at the start."""

from fastapi import APIRouter, Request

from app.services.inference_status import Preloaded

router = APIRouter()


@router.get("/preloaded")
async def preloaded(request: Request) -> Preloaded:
    """Return the state of the load at the start."""
    result: Preloaded = request.app.state.preloading.result
    return result
