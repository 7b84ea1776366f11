"""What an SAE is trained and indexed on, held together."""

from dataclasses import dataclass

from sae_core.activations import ActivationCache
from sae_core.corpora import Corpus, Sequences
from sae_core.models import HookPoint, LanguageModel


@dataclass(frozen=True, slots=True)
class Material:
    """A model, a hook point, a corpus cut into sequences, and the model's activations there."""

    model: LanguageModel
    hook: HookPoint
    corpus: Corpus
    sequences: Sequences
    cache: ActivationCache
