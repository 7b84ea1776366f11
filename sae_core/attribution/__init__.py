"""How much each feature at each position contributes to one output token."""

from sae_core.attribution.ablation import ablate, rank_correlation
from sae_core.attribution.gradient import METHODS, Attribution, attribute
from sae_core.attribution.graph import Edges, edges
from sae_core.attribution.nodes import HookedSAE, Nodes, Target

__all__ = [
    "METHODS",
    "Attribution",
    "Edges",
    "HookedSAE",
    "Nodes",
    "Target",
    "ablate",
    "attribute",
    "edges",
    "rank_correlation",
]
