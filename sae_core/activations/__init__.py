"""Activations of a model at a hook point: cached on disk, or streamed as the model runs."""

from sae_core.activations.cache import ActivationCache
from sae_core.activations.stream import ActivationStream

__all__ = ["ActivationCache", "ActivationStream"]
