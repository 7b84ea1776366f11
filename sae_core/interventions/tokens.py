"""What a forward pass reads: each token's position in its text, and which are padding, special or generated."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class PassTokens:
    """The tokens of one pass; with a key-value cache these are the new ones alone."""

    positions: Int[Tensor, "batch position"]
    """Within its text, from 0; -1 for padding."""
    special: Bool[Tensor, "batch position"]
    generated: Bool[Tensor, "batch position"]


def tokens_of_pass(
    call: Mapping[str, Any], special_token_ids: Collection[int], prompt_length: int | None
) -> PassTokens:
    """Return what a call of a `transformers` model reads.

    Args:
        call: its arguments by name: `input_ids`, and `attention_mask` and `past_key_values` where it has them.
        special_token_ids: BOS and the other special tokens.
        prompt_length: tokens of each text that are its prompt, padding left out; without it, those of a pass with an
            empty cache.
    """
    token_ids = call["input_ids"]
    cache = call.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    mask = call.get("attention_mask")
    if mask is None:
        mask = torch.ones(token_ids.shape[0], past + token_ids.shape[1], dtype=torch.long, device=token_ids.device)
    own = mask[:, -token_ids.shape[1] :].bool()
    positions = (mask.long().cumsum(dim=1) - 1)[:, -token_ids.shape[1] :].masked_fill(~own, -1)
    special = torch.isin(token_ids, torch.tensor(sorted(special_token_ids), device=token_ids.device))
    generated = positions >= prompt_length if prompt_length is not None else torch.full_like(own, past > 0)
    return PassTokens(positions, special, generated)
