"""Train SAEs: the step and the loop, their config, the state that a killed run resumes from, and the curves."""

from sae_core.training.config import TrainingConfig
from sae_core.training.loop import train, train_together
from sae_core.training.source import ActivationSource

__all__ = ["ActivationSource", "TrainingConfig", "train", "train_together"]
