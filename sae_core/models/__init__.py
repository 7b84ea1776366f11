"""Language models, and the points inside them where activations are read."""

from sae_core.models.hooks import HookPoint
from sae_core.models.language_model import LanguageModel
from sae_core.models.loading import load_model

__all__ = ["HookPoint", "LanguageModel", "load_model"]
