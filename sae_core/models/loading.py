"""Load a model from a GGUF file, a folder or the hub."""

from pathlib import Path

from sae_core.models.language_model import LanguageModel


def load_model(
    source: str | Path, *, device: str = "auto", name: str | None = None, cache: Path | None = None
) -> LanguageModel:
    """Load a causal language model and its tokenizer."""
    raise NotImplementedError
