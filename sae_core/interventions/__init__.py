"""Change features and directions inside a model, generate with and without, and keep the change as an edit."""

from sae_core.interventions.apply import intervene
from sae_core.interventions.edits import Edit, apply_edits, load_edit, save_edit
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
from sae_core.interventions.sweep import Baseline, Sweep, SweepPoint

__all__ = [
    "Baseline",
    "Edit",
    "End",
    "Event",
    "Intervention",
    "Op",
    "Positions",
    "Sampling",
    "Shift",
    "Site",
    "Step",
    "Sweep",
    "SweepPoint",
    "apply_edits",
    "generate",
    "generate_side_by_side",
    "intervene",
    "load_edit",
    "save_edit",
]
