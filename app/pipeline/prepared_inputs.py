"""What an SAE is trained and indexed on, held together."""

from dataclasses import dataclass
from pathlib import Path

from sae_core.activations import ActivationCache, ActivationStream
from sae_core.corpora import Corpus, Sequences
from sae_core.models import HookPoint, LanguageModel


@dataclass(frozen=True, slots=True)
class HookPair:
    """Where a model's activations are read, and for a transcoder where those are that it reconstructs."""

    input: HookPoint
    output: HookPoint | None = None

    @classmethod
    def parse(cls, hook: str, hook_out: str | None) -> "HookPair":
        """Read both.

        Raises:
            ModelError: one of them is not a hook point.
        """
        return cls(HookPoint.parse(hook), None if hook_out is None else HookPoint.parse(hook_out))

    def names(self) -> dict[str, str]:
        """By the names under which runs and artifacts keep them."""
        return {"hook": str(self.input)} | ({} if self.output is None else {"hook_out": str(self.output)})


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """A model, where it is read, a corpus cut into sequences, and the model's activations there."""

    model: LanguageModel
    hooks: HookPair
    corpus: Corpus
    sequences: Sequences
    sequences_folder: Path
    activations: ActivationCache | ActivationStream

    @property
    def cache(self) -> ActivationCache | None:
        """The activations, where they are on disk."""
        return self.activations if isinstance(self.activations, ActivationCache) else None
