"""Compute the activations of one feature on some texts."""

import numpy as np
from fastapi import APIRouter, Request

from app.inference.dependencies import Engine, ModelLoads, model_turn
from app.inference.engine import SparseActivations
from app.inference.model_thread import run_in_model_thread
from app.services.inference_messages import TextActivations, TextsAnswer, TextsRequest

router = APIRouter()


@router.post("/texts")
async def texts(request: TextsRequest, http: Request, engine: Engine, loads: ModelLoads) -> TextsAnswer:
    """Return the tokens of each text, with the feature's activation on each token."""
    await loads.ensure(request.sae)
    answers = []
    async with model_turn(http) as turn:
        for text in request.texts:
            sparse = await run_in_model_thread(engine.probe, request.sae, text)
            answers.append(_of_feature(sparse, request.feature))
            turn.raise_if_gone()
    return TextsAnswer(texts=answers)


def _of_feature(sparse: SparseActivations, feature: int) -> TextActivations:
    own = sparse.features == feature
    activations = np.zeros(len(sparse.token_ids))
    activations[sparse.positions[own]] = sparse.activations[own]
    return TextActivations(
        token_ids=sparse.token_ids, ends=sparse.ends, counted=sparse.counted, activations=activations.tolist()
    )
