"""What the model's predictions lose when a feature is ablated, against controls: a feature found is not a feature used.

docs/effects.md has the formulas and their limits.
"""

from sae_core.effects.held_out import HeldOut, Window
from sae_core.effects.measure import EffectConfig, FeatureEffect, measure_effects
from sae_core.effects.upper import UpperLayers

__all__ = ["EffectConfig", "FeatureEffect", "HeldOut", "UpperLayers", "Window", "measure_effects"]
