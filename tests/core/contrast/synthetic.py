"""Texts of two sides with planted features, as a reading."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sae_core.readings import Part, Reading
from sae_core.readings.reading import RESIDUAL_POOLS

WORDS = ["the", " she", " She", " he", " day", " rain", " sun", ".", " and", " walk"]
D_SAE = 30
REAL, TOKEN, LENGTH, FIRST, RARE, DEAD = 0, 1, 2, 3, 4, 5
"""Features: more active in a; active on ` she` alone, which a has more of; more on later tokens, and a is longer; on
the first token; on two texts; on none. The others are noise."""


@dataclass(frozen=True)
class Made:
    """What `compare_texts` takes."""

    reading: Reading
    texts: list[str]
    is_a: np.ndarray
    held_out: np.ndarray
    token_bytes: list[bytes]


def make_texts(n: int = 600, seed: int = 0) -> Made:
    """Half of the texts are of a; every fifth is held out."""
    random = np.random.default_rng(seed)
    is_a = np.arange(n) % 2 == 0
    lengths = np.where(is_a, random.integers(14, 36, n), random.integers(8, 24, n))
    tokens = sum(lengths)
    offsets = np.r_[0, np.cumsum(lengths)]
    side = np.repeat(is_a, lengths)
    ids = random.choice([0, 3, 4, 5, 6, 7, 8, 9], tokens)
    she = random.random(tokens) < np.where(side, 0.08, 0.02)
    ids[she] = random.choice([1, 2], she.sum(), p=[0.8, 0.2])
    dense = random.random((tokens, D_SAE)) * (random.random((tokens, D_SAE)) < 0.01)
    dense[:, REAL] = random.random(tokens) * (random.random(tokens) < np.where(side, 0.12, 0.01))
    dense[:, TOKEN] = (1 + random.random(tokens)) * she
    dense[:, LENGTH] = np.concatenate([np.arange(1, length + 1) for length in lengths]) / 100
    dense[:, FIRST] = 0
    dense[offsets[:-1], FIRST] = random.random(n) + is_a
    dense[:, RARE] = 0
    dense[offsets[[0, 2]], RARE] = 1
    dense[:, DEAD] = 0
    reading = Reading(
        offsets=offsets,
        token_ids=ids.astype(np.int32),
        parts=np.full(tokens, Part.TEXT, np.uint8),
        features=sparse.csr_array(dense.astype(np.float32)),
        residual={pool: random.normal(size=(n, 6)).astype(np.float32) for pool in RESIDUAL_POOLS},
        truncated=np.zeros(n, bool),
    )
    texts = ["".join(WORDS[token] for token in ids[offsets[row] : offsets[row + 1]]) for row in range(n)]
    return Made(reading, texts, is_a, np.arange(n) % 5 == 4, [word.encode() for word in WORDS])
