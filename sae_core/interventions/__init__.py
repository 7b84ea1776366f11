"""Change features and directions inside a model: ablate, clamp, scale and add, and generate with and without."""

from sae_core.interventions.apply import intervene
from sae_core.interventions.generation import (
    End,
    Event,
    Sampling,
    Shift,
    Step,
    generate,
    generate_side_by_side,
)
from sae_core.interventions.ops import Intervention, Op, Positions, Site

__all__ = [
    "End",
    "Event",
    "Intervention",
    "Op",
    "Positions",
    "Sampling",
    "Shift",
    "Site",
    "Step",
    "generate",
    "generate_side_by_side",
    "intervene",
]
