"""What a format is, and what reading one gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_core.checkpoints.reading import read_json
from sae_core.errors import CheckpointError
from sae_core.saes import SAE

TRANSPOSED = "The encoder and the decoder were transposed."
UNGATED = "The gate was turned into a threshold: a gated SAE is a JumpReLU SAE when it runs."
UNIT_ROWS = "Decoder rows were given norm 1, and activations were multiplied by the norm their row had."
"""Notes that more than one format has a use for."""


@dataclass(frozen=True)
class Checkpoint:
    """An SAE that was read, and what is known of it."""

    sae: SAE
    """In its inference form, float32, on the CPU; its `metadata` says what the checkpoint tells of its origin."""
    format: str
    """Name of the format that it was read from."""
    notes: list[str] = field(default_factory=list)
    """What was done to norms, scales, thresholds and layout, a sentence each, to be shown to the user."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """`model_name`, `hook_name`, `hook_name_out`, `context_size`, `prepend_bos` where they are known.

        An SAE of the hub also has its address as `source`, and the commit it was read at as `revision`.
        """
        return self.sae.metadata


@dataclass(frozen=True)
class Format:
    """A layout on disk."""

    name: str
    """Its name in `FORMATS` and on the command line."""
    weights: str
    """File of weights, relative to the SAE's folder; `*.pt` where the file's own name may be any."""
    read: Callable[[Path], Checkpoint]
    """Reads a folder (or, if `weights` is a pattern, a file); raises CheckpointError."""
    config: str = ""
    """JSON file beside the weights; empty if there is none."""
    mark: str = ""
    """A key that the config of this format has and no other's, by which a folder without weights is recognised."""
    extras: tuple[str, ...] = ()
    """Further files, relative to the folder, that say something of the SAE where they exist."""
    write: Callable[[SAE, Path, Mapping[str, Any]], None] | None = None
    """Writes an SAE and its metadata to a folder; None if the format can only be read."""

    def recognises(self, path: Path) -> bool:
        """Whether `path`, a folder or a file, looks like an SAE of this format; nothing is checked."""
        if path.is_file():
            return path.match(self.weights)
        if any(path.glob(self.weights)):
            return True
        try:
            return bool(self.config) and self.mark in read_json(path / self.config)
        except CheckpointError:
            return False


def normalising(name: str) -> str:
    """The note for an SAE that normalises each token's activations, by a name in `NORMALISATIONS`."""
    return f"Each token's activations are normalised ({name}) before they are encoded, and back after they are decoded."
