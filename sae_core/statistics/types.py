"""What an index knows about the features of one SAE over one corpus: the seam between `sae_core` and the database.

Everything is a struct of arrays with one row a feature (`n` = d_sae) or one row an example (`m`). Absent entries of
the fixed-width lists (fewer than ten co-active features, say) are -1 in the id column and 0 beside it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HISTOGRAM_BINS = 50
BANDS = 5
TOP_EXAMPLES = 20
EXAMPLES_PER_BAND = 5
TOP_TOKENS = 10
OUTPUT_TOKENS = 15
COACTIVE = 10
NEAR = 10
TOP_TOPICS = 3


@dataclass(frozen=True, slots=True)
class Examples:
    """Sequences that show a feature at work, sorted by (feature, band, rank)."""

    feature: NDArray[np.int32]
    """[m]"""
    band: NDArray[np.int8]
    """[m] 0 for the top examples; 1 to 5 for the quantile bands, 5 the strongest fifth."""
    rank: NDArray[np.int16]
    """[m] within the band, from 0: strongest first in band 0, in the order drawn in the others."""
    sequence: NDArray[np.int32]
    """[m]"""
    position: NDArray[np.int16]
    """[m] the example's token within the sequence: the strongest for band 0, the drawn one for the others."""
    activation: NDArray[np.float32]
    """[m] at that position."""
    indptr: NDArray[np.int64]
    """[m + 1] bounds of each example's entries in `positions` and `values`."""
    positions: NDArray[np.int16]
    """[indptr[-1]] every counted position of the sequence where the feature is active, ascending."""
    values: NDArray[np.float32]
    """[indptr[-1]] the activations there."""

    def __len__(self) -> int:
        return len(self.feature)


@dataclass(frozen=True, slots=True)
class TopicEnrichment:
    """Topics of the corpus in which a feature is active more than its tokens would suggest."""

    names: list[str]
    """Topics of the corpus, sorted; the arrays refer to them by number."""
    topic: NDArray[np.int16]
    """[n, 3] number of the topic; -1 = none."""
    count: NDArray[np.int64]
    """[n, 3] counted tokens of that topic on which the feature is active."""
    share: NDArray[np.float32]
    """[n, 3] of the tokens on which the feature is active: P(topic | active)."""
    lift: NDArray[np.float32]
    """[n, 3] P(topic | active) / P(topic)."""


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """All statistics of the features of one SAE over one corpus."""

    tokens: int
    """Counted tokens."""

    count: NDArray[np.int64]
    """[n] counted tokens on which the feature is active."""
    density: NDArray[np.float64]
    """[n] count / tokens."""
    max: NDArray[np.float32]
    """[n]"""
    mean: NDArray[np.float32]
    """[n] of the non-zero activations."""
    histogram: NDArray[np.int64]
    """[n, 50] non-zero activations in equal bins over (0, max]; bin b holds b/50 < value/max <= (b + 1)/50."""
    band_edges: NDArray[np.float32]
    """[n, 6] quantiles of the non-zero activations: band b lies between edges b - 1 and b; edge 0 is the minimum."""
    examples: Examples

    top_token_ids: NDArray[np.int32]
    """[n, 10] by share of the feature's activation mass; -1 = none."""
    top_token_counts: NDArray[np.int64]
    """[n, 10] occurrences of the token on which the feature is active."""
    top_token_shares: NDArray[np.float32]
    """[n, 10] of the feature's activation mass."""
    top_token_means: NDArray[np.float32]
    """[n, 10] mean activation over those occurrences."""

    promoted_ids: NDArray[np.int32]
    """[n, 15] output tokens that the decoder direction raises most, directly; -1 = none."""
    promoted_logits: NDArray[np.float32]
    """[n, 15] change of logit per unit of activation, before the final norm's division."""
    suppressed_ids: NDArray[np.int32]
    """[n, 15] output tokens that it lowers most."""
    suppressed_logits: NDArray[np.float32]
    """[n, 15]"""

    coactive: NDArray[np.int32]
    """[n, 10] features by pointwise mutual information; -1 = none."""
    coactive_pmi: NDArray[np.float32]
    """[n, 10] in nats."""
    coactive_joint: NDArray[np.int64]
    """[n, 10] tokens on which both are active."""
    coactive_given_this: NDArray[np.float32]
    """[n, 10] P(other | this)."""
    coactive_given_other: NDArray[np.float32]
    """[n, 10] P(this | other)."""

    near: NDArray[np.int32]
    """[n, 10] other features of the SAE by cosine of the decoder directions; -1 = none."""
    near_cosine: NDArray[np.float32]
    """[n, 10]"""

    health: dict[str, NDArray[np.bool_]]
    """[n] each: "dead", "dense", "duplicate", "positional", "special_token", "single_token", "splitting",
    "absorption"."""
    topics: TopicEnrichment
    provenance: dict[str, Any]
    """JSON: seeds, hashes of SAE, sequences and tokenizer, versions, what was left out of counting, thresholds."""
