"""What the model's predictions lose when a feature is ablated, against controls: a feature found is not a feature used.

docs/effects.md has the formulas and their limits.
"""

from sae_core.effects.control_prompts import CONTROL_PROMPTS
from sae_core.effects.controls import activation_mass, control_sites
from sae_core.effects.held_out import HeldOut, Window
from sae_core.effects.measure import EffectConfig, FeatureEffect, measure_effects
from sae_core.effects.side_effects import (
    Fact,
    FactChange,
    TextChange,
    change_of_fact,
    change_of_text,
    moved_tokens,
    summarise_facts,
    summarise_texts,
)
from sae_core.effects.upper import UpperLayers

__all__ = [
    "CONTROL_PROMPTS",
    "EffectConfig",
    "Fact",
    "FactChange",
    "FeatureEffect",
    "HeldOut",
    "TextChange",
    "UpperLayers",
    "Window",
    "activation_mass",
    "change_of_fact",
    "change_of_text",
    "control_sites",
    "measure_effects",
    "moved_tokens",
    "summarise_facts",
    "summarise_texts",
]
