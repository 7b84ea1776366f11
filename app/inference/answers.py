"""Answers to probes: activations in columns, with percentiles and ranks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.inference.engine import SparseActivations
from app.inference.ranking import ActivationDistributions, FeatureIds, Values, ranked
from app.inference.residency import Residency
from app.queries.features import feature_histograms
from app.services.inference_messages import RankBy, SaeRef, pack
from app.services.saes import find_sae

_DECIMALS = 4
"""Decimals of percentiles in answers: a hundredth of the share of one activation in ten thousand."""


def probe_answer(
    sparse: SparseActivations,
    features: FeatureIds,
    maxima: Values,
    distributions: ActivationDistributions | None,
    by: RankBy,
) -> dict[str, Any]:
    """Rank the features, and return a `ProbeAnswer` to be written as JSON: too much work for the event loop."""
    order = ranked(features, maxima, distributions, sum(sparse.counted), by)
    percentiles = None
    if distributions is not None:
        percentiles = _floats(distributions.percentiles(sparse.features, sparse.activations).round(_DECIMALS))
    return {
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


def _ints(values: Any) -> str:
    return pack(np.asarray(values, "<i4").tobytes())


def _floats(values: NDArray[np.float64]) -> str:
    return pack(values.astype("<f8").tobytes())


async def load_distributions(
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
