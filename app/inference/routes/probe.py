"""Run a text through a model and an SAE, and rank the features that are active on it."""

import time

import structlog
from fastapi import APIRouter, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.db import transaction
from app.inference.dependencies import Engine, ModelLoads, ProbeTurns, Resident, Sessions
from app.inference.engine import SparseActivations
from app.inference.ranking import ActivationDistributions, FeatureIds, Values, ranked
from app.inference.residency import Residency
from app.queries.features import feature_histograms
from app.queries.saes import SaeDetail
from app.services.inference import ProbeAnswer, ProbeRequest
from app.services.saes import find_sae

log = structlog.get_logger("inference")

_DECIMALS = 4
"""Decimals of percentiles in answers: a hundredth of the share of one activation in ten thousand."""

router = APIRouter()


@router.post("/probe")
async def probe(
    request: ProbeRequest,
    http: Request,
    sessions: Sessions,
    engine: Engine,
    residency: Resident,
    loads: ModelLoads,
    turns: ProbeTurns,
) -> Response:
    """Return the activations on a text, their percentiles, and the active features by rank."""
    started = time.perf_counter()
    async with transaction(sessions) as session:
        sae = await find_sae(session, request.sae)
    await loads.ensure(sae)
    async with turns.take(http.receive):
        sparse = await run_in_threadpool(engine.probe, sae, request.text)
        ran = time.perf_counter()
        features, maxima = await run_in_threadpool(sparse.max_per_feature)
        distributions = await _distributions(sessions, residency, sae, features)
        body = await run_in_threadpool(_answer, sparse, features, maxima, distributions)
    seconds = time.perf_counter() - started
    log.info(
        "probe",
        sae=sae.slug,
        tokens=len(sparse.token_ids),
        ms=round(1000 * seconds, 1),
        model_ms=round(1000 * (ran - started), 1),
    )
    return Response(body, media_type="application/json")


def _answer(
    sparse: SparseActivations, features: FeatureIds, maxima: Values, distributions: ActivationDistributions | None
) -> str:
    """Rank the features, and return the answer as JSON: too much work for the event loop."""
    order = ranked(features, maxima, distributions, sum(sparse.counted))
    return ProbeAnswer(
        token_ids=sparse.token_ids,
        ends=sparse.ends,
        counted=sparse.counted,
        features=sparse.features.tolist(),
        positions=sparse.positions.tolist(),
        activations=sparse.activations.tolist(),
        percentiles=_rounded_percentiles(distributions, sparse),
        ranked=order.tolist(),
        maxima=distributions.maximum(order).tolist() if distributions else [0.0] * len(order),
    ).model_dump_json()


def _rounded_percentiles(
    distributions: ActivationDistributions | None, sparse: SparseActivations
) -> list[float] | None:
    if distributions is None:
        return None
    percentiles: list[float] = distributions.percentiles(sparse.features, sparse.activations).round(_DECIMALS).tolist()
    return percentiles


async def _distributions(
    sessions: async_sessionmaker[AsyncSession], residency: Residency, sae: SaeDetail, features: FeatureIds
) -> ActivationDistributions | None:
    """Return the distributions of the SAE's index, with these features added; None without an index."""
    known = _of_index(residency, sae)
    if known is not None and known.unknown(features):
        async with transaction(sessions) as session:
            # Read again: the first probe waits for the model, and the index may have been replaced meanwhile.
            sae = await find_sae(session, sae.slug)
            known = _of_index(residency, sae)
            if known is not None and (missing := known.unknown(features)):
                known.add(missing, await feature_histograms(session, sae, missing))
    return known


def _of_index(residency: Residency, sae: SaeDetail) -> ActivationDistributions | None:
    return None if sae.index is None else residency.distributions(sae.index, sae.d_sae)
