"""Which features of two SAEs are the same, and which of the one are parts of one of the other.

Two measures, both exact. *Direction*: cosine of the decoder rows, which needs no text (Leask et al. 2025,
arXiv:2502.04878, tell new from known features of a wider SAE by it). *Activity*: Pearson's correlation of the
activations over the counted tokens of one corpus (Bricken et al. 2023 compare dictionaries by it), which also finds
features that mean the same and are written in other directions. It does not depend on how an SAE scales its features,
and tokens on which a feature is strong weigh more than those near its threshold, where two SAEs differ most.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_core.errors import ArtifactError
from sae_core.matching.pairs import Activity, Asked
from sae_core.matching.partners import (
    MIN_JOINT,
    PART_COSINE,
    PART_COUNT,
    PART_GIVEN,
    BestPartners,
    Chosen,
    Partners,
    choose_partners,
)
from sae_core.progress import Progress, rescaled, silent
from sae_core.statistics.nearest import cosines, nearest_of_both, unit_rows
from sae_core.statistics.spec import COACTIVE_MIN_JOINT, DENSE_DENSITY, PARTNER
from sae_core.store.activation_store import ActivationStore
from sae_core.store.segments import Indices

MATCHING_VERSION = 2
"""Raise it when a definition changes, or when more is published of a comparison."""

MATCH_COSINE = 0.5
"""Two features match by direction if each has the highest cosine to the other, and it is at least this …"""
MATCH_CORRELATION = 0.5
"""… and by activity if each correlates most with the other, at least this much, and they share `COACTIVE_MIN_JOINT`
tokens."""

DIRECTIONS_SHARE = 0.5
"""Progress when the directions are compared and activity begins."""

THRESHOLDS: dict[str, float] = {
    "partner": PARTNER,
    "match_cosine": MATCH_COSINE,
    "match_correlation": MATCH_CORRELATION,
    "min_joint": COACTIVE_MIN_JOINT,
    "part_given": PART_GIVEN,
    "part_cosine": PART_COSINE,
    "part_count": PART_COUNT,
    "dense_density": DENSE_DENSITY,
}


@dataclass(frozen=True)
class Counterparts:
    """The counterparts of one SAE's features in the other; [n] each."""

    count: Indices
    """Tokens on which the feature is active; 0 without stores."""
    near: Partners
    """The feature with the highest cosine; ties by number."""
    coactive: Partners
    """The feature with the highest correlation above 0, sharing `COACTIVE_MIN_JOINT` tokens or more; ties by number."""
    parent: Partners
    """The feature that it is a part of: of those that satisfy `PART_GIVEN` and the rest, the nearest in direction."""
    near_matched: NDArray[np.bool_]
    """True if each is `near` to the other, at least `MATCH_COSINE`."""
    coactive_matched: NDArray[np.bool_]
    """True if each is most `coactive` with the other, at least `MATCH_CORRELATION`."""
    parts: NDArray[np.int32]
    """Number of features of the other SAE that have this one as their parent. With two or more it is split there."""
    covered: Indices
    """Tokens of the feature on which at least one of its parts is active."""


@dataclass(frozen=True)
class Matching:
    """Two SAEs, each seen from the other."""

    a: Counterparts
    b: Counterparts
    tokens: int
    """Counted tokens that activity was compared on; 0 if it was not."""


def provenance(stores: tuple[ActivationStore, ActivationStore] | None) -> dict[str, Any]:
    """Return what a matching depends on beside the decoders, with every choice in its definitions; JSON."""
    return {
        "matching_version": MATCHING_VERSION,
        "torch_version": str(torch.__version__),
        "thresholds": THRESHOLDS,
        "stores": None if stores is None else [store.plan for store in stores],
    }


@torch.no_grad()
def match_features(
    W_dec_a: Float[Tensor, "n d"],
    W_dec_b: Float[Tensor, "m d"],
    stores: tuple[ActivationStore, ActivationStore] | None,
    *,
    progress: Progress = silent,
) -> Matching:
    """Compare every feature of `a` with every feature of `b`.

    The work is one product of both decoders and, for each token, the features of `a` that are active on it times those
    of `b`. Memory does not grow with the number of pairs.

    Args:
        W_dec_a: decoder directions.
        W_dec_b: decoder directions that live in the same space.
        stores: activations of `a` and `b` on the same sequences; without them only directions are compared.
        progress: in features of `a`.

    Raises:
        ArtifactError: the stores are of other SAEs or were made on different sequences, or the decoders write to
            spaces of different dimension.
    """
    _check(W_dec_a, W_dec_b, stores)
    n, m = len(W_dec_a), len(W_dec_b)
    unit_a, unit_b = (unit_rows(W.cpu()) for W in (W_dec_a, W_dec_b))
    near_a, near_b = nearest_of_both(unit_a, unit_b, rescaled(progress, n, 0, DIRECTIONS_SHARE if stores else 1))
    a, b = BestPartners.given(near_a), BestPartners.given(near_b)
    activity = None if stores is None else Activity.of(*stores)
    tokens, counts, covered = 0, (np.zeros(n, np.int64), np.zeros(m, np.int64)), None
    if activity is not None:
        tokens, counts = activity.tokens, (activity.a.count, activity.b.count)
        found = activity.pairs(Asked.of_both(near_a, near_b), MIN_JOINT, rescaled(progress, n, DIRECTIONS_SHARE, 1))
        choose_partners(a, b, found, counts, tokens, partial(_cosines, unit_a, unit_b))
        covered = activity.covered(b.parent.ids), activity.swapped().covered(a.parent.ids)
    back = None if activity is None else activity.swapped()
    sides = (_measured(a, unit_a, unit_b, activity), _measured(b, unit_b, unit_a, back))
    covered_a, covered_b = covered or counts
    return Matching(
        _counterparts(sides[0], sides[1], counts[0], covered_a),
        _counterparts(sides[1], sides[0], counts[1], covered_b),
        tokens,
    )


def _cosines(
    unit_a: Float[Tensor, "n d"], unit_b: Float[Tensor, "m d"], row: Indices, column: Indices
) -> NDArray[np.float32]:
    """Return the cosines of features `row` of `a`, in ascending order, and features `column` of `b`."""
    found: NDArray[np.float32] = cosines(unit_a, unit_b, torch.from_numpy(row), torch.from_numpy(column)).numpy()
    return found.clip(-1, 1)


def _check(W_dec_a: Tensor, W_dec_b: Tensor, stores: tuple[ActivationStore, ActivationStore] | None) -> None:
    if W_dec_a.shape[1] != W_dec_b.shape[1]:
        raise ArtifactError(
            f"The decoders write to spaces of {W_dec_a.shape[1]} and {W_dec_b.shape[1]} dimensions: "
            "their directions cannot be compared."
        )
    if stores is None:
        return
    if [store.d_sae for store in stores] != [len(W_dec_a), len(W_dec_b)]:
        raise ArtifactError("The activation stores are not those of these SAEs. Delete them and run the index again.")
    if stores[0].plan["sequences_sha256"] != stores[1].plan["sequences_sha256"]:
        raise ArtifactError("The two SAEs were indexed on different sequences: index both on the same corpus.")


def _measured(
    best: BestPartners, unit: Float[Tensor, "n d"], others: Float[Tensor, "m d"], activity: Activity | None
) -> dict[str, Partners]:
    """Return the partners by each score, with all measures of the pairs."""

    def partners(chosen: Chosen) -> Partners:
        own = np.flatnonzero(chosen.ids >= 0)
        other = chosen.ids[own].astype(np.int64)
        cosine, correlation = np.zeros((2, len(chosen.ids)), np.float32)
        cosine[own] = _cosines(unit, others, own, other)
        if activity is not None:
            correlation[own] = activity.correlation(own, other, chosen.product[own])
        return Partners(chosen.ids, cosine, correlation, chosen.joint)

    return {name: partners(getattr(best, name)) for name in ("near", "coactive", "parent")}


def _counterparts(
    this: dict[str, Partners], other: dict[str, Partners], count: Indices, covered: Indices
) -> Counterparts:
    near, coactive, parts = this["near"], this["coactive"], other["parent"].ids
    return Counterparts(
        count=count,
        near=near,
        coactive=coactive,
        parent=this["parent"],
        near_matched=_mutual(near, other["near"]) & (near.cosine >= MATCH_COSINE),
        coactive_matched=_mutual(coactive, other["coactive"]) & (coactive.correlation >= MATCH_CORRELATION),
        parts=np.bincount(parts[parts >= 0], minlength=len(near.ids)).astype(np.int32),
        covered=covered,
    )


def _mutual(this: Partners, other: Partners) -> NDArray[np.bool_]:
    """True for each feature that is its partner's own partner."""
    found: NDArray[np.bool_] = (this.ids >= 0) & (other.ids[this.ids] == np.arange(len(this.ids)))
    return found
