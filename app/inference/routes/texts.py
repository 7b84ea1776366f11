"""Compute the activations of one feature on some texts."""

import numpy as np
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from app.db import transaction
from app.inference.dependencies import Engine, ModelLoads, ProbeTurns, Sessions
from app.inference.engine import SparseActivations
from app.services.inference import TextActivations, TextsAnswer, TextsRequest
from app.services.saes import find_sae

router = APIRouter()


@router.post("/texts")
async def texts(
    request: TextsRequest, http: Request, sessions: Sessions, engine: Engine, loads: ModelLoads, turns: ProbeTurns
) -> TextsAnswer:
    """Return the tokens of each text, with the feature's activation on each token."""
    async with transaction(sessions) as session:
        sae = await find_sae(session, request.sae)
    await loads.ensure(sae)
    async with turns.take(http.receive):
        found = [await run_in_threadpool(engine.probe, sae, text) for text in request.texts]
    answers = [_of_feature(sparse, request.feature) for sparse in found]
    return TextsAnswer(texts=answers)


def _of_feature(sparse: SparseActivations, feature: int) -> TextActivations:
    own = sparse.features == feature
    activations = np.zeros(len(sparse.token_ids))
    activations[sparse.positions[own]] = sparse.activations[own]
    return TextActivations(
        token_ids=sparse.token_ids, ends=sparse.ends, counted=sparse.counted, activations=activations.tolist()
    )
