"""Language models, and the points inside them where activations are read."""

from sae_core.models.hooks import HookPoint
from sae_core.models.language_model import LanguageModel
from sae_core.models.loading import load_model
from sae_core.models.readout import OutputDirections, ReadoutError
from sae_core.models.served import ServedModel
from sae_core.models.vocabulary import InputTokens

__all__ = ["HookPoint", "InputTokens", "LanguageModel", "OutputDirections", "ReadoutError", "ServedModel", "load_model"]
