"""How alike the tokens are on which a feature's examples peak, and how much they say: what can be named comes first."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from sae_core.corpora import Sequences
from sae_core.models import InputTokens
from sae_core.statistics.spec import MIN_EXAMPLES
from sae_core.statistics.types import Examples

BLOCK_FEATURES = 4096
"""Features whose sums of embeddings are held at once."""


def coherence(examples: Examples, sequences: Sequences, tokens: InputTokens, n_features: int) -> NDArray[np.float32]:
    """Return the coherence of each feature, in bits; NaN for one of fewer than `MIN_EXAMPLES` examples.

    Coherence = similarity · information, over the tokens on which the feature's examples peak, bands included:

    - similarity: the mean cosine over all pairs of different examples, of the tokens' input embeddings less the mean
      embedding of the vocabulary. It is 1 for equal tokens, about 0 for tokens drawn at random.
    - information: the mean of -log2(count of the token's word / counted tokens), in bits. A word is all tokens that
      differ in case and white space alone; by tokens, letters and words that begin sentences would lead.

    The first factor is topic coherence with embeddings as the measure of likeness (Röder, Both and Hinneburg 2015,
    "Exploring the space of topic coherence measures"; Ding, Nallapati and Xiang 2018, "Coherence-aware neural topic
    modeling"), over examples in place of a topic's words. The second is Shannon's self-information: without it,
    features of full stops and articles lead. docs/site.md says how both agree with judgements.

    Args:
        examples: of features below `n_features`, sorted by feature.
        sequences: whose counted tokens are counted.
        tokens: of the model.
        n_features: rows of the result, [n_features] float32.
    """
    token_ids = sequences.token_ids[examples.sequence, examples.position]
    number = np.bincount(examples.feature, minlength=n_features)
    counts = np.bincount(tokens.spellings[sequences.token_ids[sequences.counted]])
    bits = np.bincount(
        examples.feature,
        weights=np.log2(sequences.n_counted) - np.log2(counts[tokens.spellings[token_ids]]),
        minlength=n_features,
    )
    enough = number >= MIN_EXAMPLES
    result = np.full(n_features, np.nan, np.float32)
    information = bits[enough] / number[enough]
    result[enough] = _mean_similarity(token_ids, number, tokens.embeddings)[enough] * information
    return result


def _mean_similarity(
    token_ids: NDArray[np.int32], number: NDArray[np.int64], embeddings: Float[Tensor, "token d_model"]
) -> NDArray[np.float64]:
    """Return the mean cosine over pairs of different examples of each feature; without two examples, 0.

    `token_ids` are those of the first feature's `number[0]` examples, then of the second's. Of unit vectors u, the sum
    of all u_i · u_j is |sum of u|²; of this the pairs of an example with itself make the sum of |u|², where u is 0 for
    an embedding that is the mean. So the work grows with the examples, not with their pairs. Memory: float32 embeddings
    of the tokens that occur among the examples, and a sum per feature of a block.
    """
    known, place = np.unique(token_ids, return_inverse=True)
    unit = embeddings[torch.from_numpy(known).to(embeddings.device).long()].float()
    unit -= embeddings.float().mean(0)
    unit = normalize(unit, dim=1, out=unit).cpu()
    own = unit.square().sum(1).double().numpy()
    bounds = np.concatenate([[0], np.cumsum(number)])
    pairs = np.zeros(len(number))
    for start in range(0, len(number), BLOCK_FEATURES):
        stop = min(start + BLOCK_FEATURES, len(number))
        entries = torch.from_numpy(place[bounds[start] : bounds[stop]])
        if len(entries):
            sums = embedding_bag(entries, unit, torch.from_numpy(bounds[start:stop] - bounds[start]), mode="sum")
            pairs[start:stop] = sums.double().square().sum(1).numpy()
    feature = np.repeat(np.arange(len(number)), number)
    pairs -= np.bincount(feature, weights=own[place], minlength=len(number))
    result: NDArray[np.float64] = pairs / np.maximum(number * (number - 1), 1)
    return result
