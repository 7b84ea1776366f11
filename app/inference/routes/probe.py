"""Run a text through a model and an SAE, and rank the features that are active on it."""

import json
import time

import structlog
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.inference.answers import load_distributions, probe_answer
from app.inference.dependencies import Engine, ModelLoads, Resident, Sessions, model_turn
from app.inference.engine import ProbeEngine, SparseActivations
from app.inference.model_thread import run_in_model_thread
from app.inference.ranking import ActivationDistributions, FeatureIds, Values
from app.inference.scheduler import Turn
from app.services.inference_messages import ProbeRequest, RankBy

log = structlog.get_logger("inference")

router = APIRouter()


@router.post("/probe")
async def probe(
    request: ProbeRequest, http: Request, sessions: Sessions, engine: Engine, residency: Resident, loads: ModelLoads
) -> Response:
    """Return the activations on a text, their percentiles, and the active features by rank: a `ProbeAnswer`."""
    started = time.perf_counter()
    await loads.ensure(request.sae)
    async with model_turn(http) as turn:
        sparse, features, maxima = await run_in_model_thread(_run, engine, request, turn)
        ran = time.perf_counter()
        turn.raise_if_gone()
        distributions = await load_distributions(sessions, residency, request.sae, features)
    body = await run_in_threadpool(_written, sparse, features, maxima, distributions, request.rank_by)
    seconds = time.perf_counter() - started
    log.info(
        "probe",
        sae=request.sae.slug,
        tokens=len(sparse.token_ids),
        ms=round(1000 * seconds, 1),
        model_ms=round(1000 * (ran - started), 1),
    )
    return Response(body, media_type="application/json")


def _run(engine: ProbeEngine, request: ProbeRequest, turn: Turn) -> tuple[SparseActivations, FeatureIds, Values]:
    sparse = engine.probe(request.sae, request.text, raise_if_gone=turn.raise_if_gone)
    return sparse, *sparse.max_per_feature()


def _written(
    sparse: SparseActivations,
    features: FeatureIds,
    maxima: Values,
    distributions: ActivationDistributions | None,
    by: RankBy,
) -> bytes:
    return json.dumps(probe_answer(sparse, features, maxima, distributions, by)).encode()
