"""Run a text through a model and an SAE, and rank the features that are active on it."""

import json
import time
from typing import Any

import numpy as np
import structlog
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.db import transaction
from app.inference.dependencies import Engine, ModelLoads, Resident, Sessions, model_turn
from app.inference.engine import ProbeEngine, SparseActivations
from app.inference.model_thread import run_in_model_thread
from app.inference.ranking import ActivationDistributions, FeatureIds, Values, ranked
from app.inference.residency import Residency
from app.inference.scheduler import Turn
from app.queries.features import feature_histograms
from app.services.inference import ProbeRequest, SaeRef, pack
from app.services.saes import find_sae

log = structlog.get_logger("inference")

_DECIMALS = 4
"""Decimals of percentiles in answers: a hundredth of the share of one activation in ten thousand."""

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
        distributions = await _distributions(sessions, residency, request.sae, features)
    body = await run_in_threadpool(_answer, sparse, features, maxima, distributions)
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


def _answer(
    sparse: SparseActivations, features: FeatureIds, maxima: Values, distributions: ActivationDistributions | None
) -> bytes:
    """Rank the features, and return the answer as JSON: too much work for the event loop."""
    order = ranked(features, maxima, distributions, sum(sparse.counted))
    percentiles = None
    if distributions is not None:
        percentiles = _floats(distributions.percentiles(sparse.features, sparse.activations).round(_DECIMALS))
    answer = {
        "token_ids": _ints(sparse.token_ids),
        "ends": _ints(sparse.ends),
        "counted": sparse.counted,
        "features": _ints(sparse.features),
        "positions": _ints(sparse.positions),
        "activations": _floats(sparse.activations),
        "percentiles": percentiles,
        "ranked": _ints(order),
        "maxima": _floats(distributions.maximum(order) if distributions else np.zeros(len(order))),
    }
    return json.dumps(answer).encode()


def _ints(values: Any) -> str:
    return pack(np.asarray(values, "<i4").tobytes())


def _floats(values: NDArray[np.float64]) -> str:
    return pack(values.astype("<f8").tobytes())


async def _distributions(
    sessions: async_sessionmaker[AsyncSession], residency: Residency, ref: SaeRef, features: FeatureIds
) -> ActivationDistributions | None:
    """Return the distributions of the SAE's index, with these features added; None without an index.

    The database is read only for features that are new here.
    """
    if ref.index is None:
        return None
    known = residency.distributions(ref.index, ref.d_sae)
    if not known.unknown(features):
        return known
    async with transaction(sessions) as session:
        # The first probe waits for the model, and the index may have been replaced since the request was sent.
        sae = await find_sae(session, ref.slug)
        ref = SaeRef.of(sae)
        if ref.index is None:
            return None
        known = residency.distributions(ref.index, ref.d_sae)
        if missing := known.unknown(features):
            known.add(missing, await feature_histograms(session, sae, missing))
    return known
