"""Folders of the files that runs make. A folder is named by a hash of everything that its contents depend on.

A run that is repeated, or resumed after a kill, finds what is there and makes the rest. A run with other settings never
sees it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.queries.saes import SaeDetail
from sae_core.files import sha256_json

LAYOUT = 1
"""Part of every key; raise it when the form of a folder's contents changes."""


def content_key(**depends_on: Any) -> str:
    """Return a folder name for content that depends on these JSON values alone."""
    return sha256_json({"layout": LAYOUT, **depends_on})[:20]


def store_key(sae: SaeDetail, sequences_sha256: str) -> str:
    """Return the key of the activation store of an SAE on these sequences.

    The hash of the weights says neither which activations they read nor how: the slug stands for the SAE's config.
    """
    return content_key(
        sae=sae.weights_sha256,
        slug=sae.slug,
        model=sae.model.weights_sha256,
        hook=sae.hook,
        sequences=sequences_sha256,
    )


def weights_missing(slug: str, folder: Path) -> str:
    """Return what to say of a registered SAE whose files are not in its folder any more."""
    return (
        f"The weights of {slug} are not under {folder}. Set SEESAE_ARTIFACTS to where they are, copy them back, or "
        "repeat the command that made it."
    )


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Folders under SEESAE_ARTIFACTS."""

    root: Path

    @property
    def models(self) -> Path:
        """Converted models, such as a GGUF file's weights as safetensors."""
        return self.root / "models"

    def sequences(self, key: str) -> Path:
        """One corpus, packed by one tokenizer."""
        return self.root / "sequences" / key

    @property
    def activations_root(self) -> Path:
        """All caches of activations."""
        return self.root / "activations"

    def activations(self, key: str) -> Path:
        """Activations of one model at one hook point on one set of sequences."""
        return self.activations_root / key

    def training(self, key: str) -> Path:
        """Checkpoints of one training run."""
        return self.root / "training" / key

    def sae(self, slug: str) -> Path:
        """A finished SAE, in SAELens' layout."""
        return self.root / "saes" / slug

    def index(self, key: str) -> Path:
        """The activation store of one SAE on one set of sequences."""
        return self.root / "indexes" / key
