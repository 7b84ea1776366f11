"""k-sparse probing: how much of what texts are about do a few features tell, beside what else would tell it?"""

from sae_core.probing.compare import Difference, Figure, Probed, ProbedSet, probe_set
from sae_core.probing.pooling import MAX_TOKENS, PooledTexts, pool_texts, random_dictionary
from sae_core.probing.probes import KS

__all__ = [
    "KS",
    "MAX_TOKENS",
    "Difference",
    "Figure",
    "PooledTexts",
    "Probed",
    "ProbedSet",
    "pool_texts",
    "probe_set",
    "random_dictionary",
]
