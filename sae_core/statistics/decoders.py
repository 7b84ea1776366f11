"""Statistics of the decoder alone: the output tokens that it moves, and features of near directions."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_core.models import OutputDirections
from sae_core.progress import Progress, silent
from sae_core.statistics.nearest import nearest_others, unit_rows
from sae_core.statistics.spec import NEAR, OUTPUT_TOKENS
from sae_core.store import segments

ROWS = 256
"""Features multiplied at once. A constant, because the last bits of a product depend on its shape."""
TOKENS = 2048
"""Tokens whose deviations are computed at once; a constant for the same reason."""
ROUNDING = 1e-12
"""Share of a token's mean squared effect below which its variance over features is only rounding."""


@dataclass(frozen=True)
class NearDecoders:
    """[features, count] each; id -1 = none."""

    ids: NDArray[np.int32]
    cosine: NDArray[np.float32]

    def nearest(self, count: int) -> "NearDecoders":
        """Return the first of each feature's."""
        return NearDecoders(self.ids[:, :count], self.cosine[:, :count])


@dataclass(frozen=True)
class OutputTokens:
    """[features, 15] each; id -1 = none. Logits are per unit of activation, less their mean over all features."""

    promoted_ids: NDArray[np.int32]
    promoted_logits: NDArray[np.float32]
    suppressed_ids: NDArray[np.int32]
    suppressed_logits: NDArray[np.float32]


def near_decoders(W_dec: Float[Tensor, "d_sae d_in"], count: int = NEAR, progress: Progress = silent) -> NearDecoders:
    """Find the `count` other features with the highest cosine of the decoder directions; ties by number."""
    ids, cosine = nearest_others(unit_rows(W_dec), count, progress)
    return NearDecoders(ids, cosine.clip(-1, 1))


@torch.no_grad()
def output_tokens(
    W_dec: Float[Tensor, "d_sae d_in"], output: OutputDirections | None, progress: Progress
) -> OutputTokens:
    """Find the 15 output tokens that each decoder direction raises most for that token, and the 15 that it lowers most.

    The effect of feature i on the logit of token t is e[i, t] = W_dec[i] · output_direction[t]: the direct effect only
    (the logit lens, nostalgebraist 2020), without what later layers make of it. With the mean m[t] and the standard
    deviation s[t] of e[:, t] over all features of the SAE, tokens are ranked by

        (e[i, t] − m[t]) / s[t].

    Ranked by e alone, a few tokens with long unembedding rows lead the lists of a good part of all features, whatever
    these do. What the same token gets from the other features is what an effect has to be compared with.

    Both moments are exact without all effects at once: m = mean(W_dec) · d, and s² = dᵀ cov(W_dec) d for a token's
    direction d. A token that all features move alike has no deviation, and is in no list.

    Args:
        W_dec: decoder directions.
        output: None where there are no output tokens.
        progress: in features.

    Returns:
        The tokens, and e[i, t] − m[t] of each.
    """
    shape = (len(W_dec), OUTPUT_TOKENS)
    ids = np.full((2, *shape), -1, np.int32)
    logits = np.zeros((2, *shape), np.float32)
    if output is not None:
        directions, token_ids = output.by_token.to(W_dec.device), output.token_ids.cpu().numpy()
        mean, deviation = _effect_moments(W_dec, directions)
        moved = deviation > 0
        if not moved.all():
            directions, token_ids, deviation = directions[:, moved], token_ids[moved.cpu().numpy()], deviation[moved]
        for start in range(0, len(W_dec), ROWS):
            block = slice(start, start + ROWS)
            scores = ((W_dec[block].double() - mean).float() @ directions).div_(deviation)
            ids[0, block], logits[0, block] = _highest(scores, token_ids, deviation)
            ids[1, block], logits[1, block] = _highest(scores.neg_(), token_ids, deviation)
            progress(min(start + ROWS, len(W_dec)), len(W_dec))
    return OutputTokens(ids[0], logits[0], ids[1], -logits[1])


def _effect_moments(
    W_dec: Float[Tensor, "d_sae d_in"], directions: Float[Tensor, "d_in token"]
) -> tuple[Float[Tensor, " d_in"], Float[Tensor, " token"]]:
    """Return the mean decoder row, float64, and each token's deviation of effects; 0 where it is only rounding."""
    mean = W_dec.mean(dim=0, dtype=torch.float64)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=W_dec.device)
    for start in range(0, len(W_dec), ROWS):
        centred = W_dec[start : start + ROWS].double() - mean
        covariance.addmm_(centred.T, centred, alpha=1 / len(W_dec))
    deviation = directions.new_zeros(directions.shape[1])
    for start in range(0, len(deviation), TOKENS):
        block = directions[:, start : start + TOKENS].double()
        variance = (covariance @ block).mul_(block).sum(dim=0)
        is_rounding = variance <= ROUNDING * (variance + (mean @ block).square())
        deviation[start : start + TOKENS] = variance.sqrt().masked_fill(is_rounding, 0)
    return mean, deviation


def _highest(
    scores: Float[Tensor, "row token"], token_ids: NDArray[np.int64], deviation: Float[Tensor, " token"]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the ids of the 15 tokens of the highest scores, and their effects: scores times deviations."""
    columns, found = segments.top_k(scores, OUTPUT_TOKENS)
    if not len(token_ids):
        return columns, found
    effects = found * deviation.cpu().numpy()[columns]  # a missing entry's score is 0
    return np.where(columns >= 0, token_ids[columns], -1).astype(np.int32), effects
