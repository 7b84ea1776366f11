"""Texts as an SAE, random dictionaries and the raw activations have them, from one pass of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy import sparse
from torch import Tensor

from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent
from sae_core.readings import batches_by_length, encode_tokens, tokenize_text
from sae_core.saes import SAE
from sae_core.saes.topk import TopK, TopKConfig

MAX_TOKENS = 128
"""Tokens per text, the context of sae-bench's probing."""


@dataclass(frozen=True)
class PooledTexts:
    """Means over the counted tokens of each text; zeros for a text without any."""

    latents: Sequence[sparse.csr_array]
    """Float32 `[text, d_sae]` of each dictionary, in the order given."""
    activations: Float32[np.ndarray, "text d_in"]
    """Of what the dictionaries read."""


@torch.no_grad()
def random_dictionary(d_sae: int, centre: Float[Tensor, " d_in"], *, active: float, seed: int) -> TopK:
    """Return a dictionary of random directions: f = the k largest of (x − centre) W, where positive.

    It has as many features as the SAE that it is a control for, and as many active per token. Its directions are
    uniform on the sphere: normal draws, scaled to length 1.

    Args:
        d_sae: number of features.
        centre: mean activation, which an SAE's bias subtracts too.
        active: mean number of active features per token (L0) of the SAE; k is that, rounded.
        seed: of the directions.
    """
    directions = torch.randn(d_sae, len(centre), generator=torch.Generator().manual_seed(seed))
    directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    dictionary = TopK(TopKConfig(d_in=len(centre), d_sae=d_sae, k=min(max(1, round(active)), d_sae)))
    dictionary.W_dec = torch.nn.Parameter(directions)
    dictionary.W_enc = torch.nn.Parameter(dictionary.W_dec.t())  # one block of memory
    dictionary.b_dec.copy_(centre)
    return dictionary.to(centre.device)


def pool_texts(
    model: LanguageModel,
    dictionaries: Sequence[SAE],
    texts: Sequence[str],
    *,
    hook: HookPoint,
    prepend_bos: bool = True,
    progress: Progress = silent,
) -> PooledTexts:
    """Run the model over texts, stopped at the hook, and pool by mean what each dictionary makes of their tokens.

    Args:
        model: the model.
        dictionaries: in the form for inference, on the model's device.
        texts: plain texts, of which the first `MAX_TOKENS` tokens are read behind the prefix of a probe.
        hook: point that the dictionaries read.
        prepend_bos: True if the model's BOS token comes first.
        progress: in tokens.

    Raises:
        ModelError: the model has no such hook point.
    """
    tokenized = [tokenize_text(model, text, prepend_bos=prepend_bos, max_tokens=MAX_TOKENS) for text in texts]
    total = sum(len(text.ids) for text in tokenized)
    latents: list[list[sparse.csr_array]] = [[] for _ in dictionaries]
    activations = np.zeros((len(texts), dictionaries[0].d_in), np.float32)
    order: list[int] = []
    done = 0
    progress(0, total)
    for batch in batches_by_length([len(text.ids) for text in tokenized]):
        ids = torch.zeros((len(batch), len(tokenized[batch[0]].ids)), dtype=torch.long)
        counted = torch.zeros(ids.shape, dtype=torch.bool)
        for place, row in enumerate(batch):
            length = len(tokenized[row].ids)
            ids[place, :length] = torch.tensor(tokenized[row].ids)
            counted[place, :length] = torch.from_numpy(tokenized[row].counted)
        x = model.activations(ids, hook)[counted.to(model.device)]
        mean = _mean_by_text(counted.sum(dim=1).numpy())
        activations[batch] = mean @ x.float().cpu().numpy()
        for pooled, dictionary in zip(latents, dictionaries, strict=True):
            pooled.append(sparse.csr_array(mean @ encode_tokens(dictionary, x)))
        order += batch
        done += sum(len(tokenized[row].ids) for row in batch)
        progress(done, total)
    return PooledTexts([_in_order(parts, order, len(texts)) for parts in latents], activations)


def _mean_by_text(counts: np.ndarray) -> sparse.csr_array:
    """Return the matrix `[text, token]` that takes the mean of each text's tokens, which follow each other."""
    weights = np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array((weights, np.arange(len(weights)), offsets), shape=(len(counts), len(weights)))


def _in_order(parts: Sequence[sparse.csr_array], order: Sequence[int], texts: int) -> sparse.csr_array:
    """Return rows in the order of the texts; those that were not read are zero."""
    rows = sparse.coo_array(sparse.vstack(parts, format="coo"))
    own = (rows.data, (np.asarray(order)[rows.row], rows.col))
    return sparse.csr_array(sparse.coo_array(own, shape=(texts, rows.shape[1])))
