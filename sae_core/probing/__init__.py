"""k-sparse probing: how much of what texts are about do a few features tell, beside what else would tell it?"""

from sae_core.probing.absorption import Absorption, measure_absorption
from sae_core.probing.compare import Difference, Figure, Probed, ProbedSet, probe_set
from sae_core.probing.pooling import MAX_TOKENS, PooledTexts, pool_texts, random_dictionary
from sae_core.probing.probes import KS
from sae_core.probing.spelling import SPELLS, Spelling, measure_spelling, spelling_task, word_activations

__all__ = [
    "KS",
    "MAX_TOKENS",
    "SPELLS",
    "Absorption",
    "Difference",
    "Figure",
    "PooledTexts",
    "Probed",
    "ProbedSet",
    "Spelling",
    "measure_absorption",
    "measure_spelling",
    "pool_texts",
    "probe_set",
    "random_dictionary",
    "spelling_task",
    "word_activations",
]
