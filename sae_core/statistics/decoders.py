"""Statistics of the decoder alone: the output tokens that it moves, and features of near directions."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_core.progress import Progress
from sae_core.statistics.spec import NEAR, OUTPUT_TOKENS
from sae_core.store import segments

ROWS = 256
"""Features multiplied at once. A constant, because the last bits of a product depend on its shape."""


@dataclass(frozen=True)
class NearDecoders:
    """[features, count] each; id -1 = none."""

    ids: NDArray[np.int32]
    cosine: NDArray[np.float32]


@dataclass(frozen=True)
class OutputTokens:
    """[features, 15] each; id -1 = none."""

    promoted_ids: NDArray[np.int32]
    promoted_logits: NDArray[np.float32]
    suppressed_ids: NDArray[np.int32]
    suppressed_logits: NDArray[np.float32]


@torch.no_grad()
def near_decoders(W_dec: Float[Tensor, "d_sae d_in"], count: int = NEAR) -> NearDecoders:
    """Find the `count` other features with the highest cosine of the decoder directions; ties by number."""
    unit = torch.nn.functional.normalize(W_dec.float(), dim=1)
    ids, cosine = [], []
    for start in range(0, len(unit), ROWS):
        cosines = unit[start : start + ROWS] @ unit.T
        cosines.diagonal(offset=start).fill_(-torch.inf)
        columns, values = segments.top_k(cosines, count)
        ids.append(columns)
        cosine.append(values)
    return NearDecoders(np.concatenate(ids), np.concatenate(cosine).clip(-1, 1))


@torch.no_grad()
def output_tokens(
    W_dec: Float[Tensor, "d_sae d_in"], output_directions: Float[Tensor, "d_in vocab"] | None, progress: Progress
) -> OutputTokens:
    """Find the 15 output tokens whose logits each decoder direction raises most, and the 15 that it lowers most.

    This is only the direct effect, by the logit lens (nostalgebraist 2020): W_dec,i through the final norm's scale
    and the unembedding, centred over the vocabulary. Layers in between add effects of their own.

    Args:
        W_dec: decoder directions.
        output_directions: unembedding with the final norm's scale folded in, centred; None where the SAE does not write
            to the residual stream: then there are no output tokens.
        progress: in features.
    """
    shape = (len(W_dec), OUTPUT_TOKENS)
    ids = np.full((2, *shape), -1, np.int32)
    logits = np.zeros((2, *shape), np.float32)
    if output_directions is not None:
        directions = output_directions.to(W_dec.device, torch.float32)
        for start in range(0, len(W_dec), ROWS):
            block = slice(start, start + ROWS)
            effect = W_dec[block].float() @ directions
            ids[0, block], logits[0, block] = segments.top_k(effect, OUTPUT_TOKENS)
            ids[1, block], logits[1, block] = segments.top_k(effect.neg_(), OUTPUT_TOKENS)
            progress(min(start + ROWS, len(W_dec)), len(W_dec))
    return OutputTokens(ids[0], logits[0], ids[1], -logits[1])
