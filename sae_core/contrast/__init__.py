"""What distinguishes two groups of texts: features, words, and what may only look like it."""

from sae_core.contrast.baselines import LEAST_TEXTS, Baseline, Word
from sae_core.contrast.compare import LEAST_HELD_OUT, Contrast, Length, compare_texts
from sae_core.contrast.figures import compare_rates, wilson
from sae_core.contrast.ranks import Separation, separate, separate_scores, separate_within

__all__ = [
    "LEAST_HELD_OUT",
    "LEAST_TEXTS",
    "Baseline",
    "Contrast",
    "Length",
    "Separation",
    "Word",
    "compare_rates",
    "compare_texts",
    "separate",
    "separate_scores",
    "separate_within",
    "wilson",
]
