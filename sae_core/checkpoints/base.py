"""Description of a format, and the result of reading one."""

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
"""Notes that more than one format uses."""


@dataclass(frozen=True)
class Checkpoint:
    """An SAE that was read, with its format and notes."""

    sae: SAE
    """In its inference form, float32, on the CPU; its `metadata` is what the checkpoint says of its origin."""
    format: str
    """Name of the format that it was read from."""
    notes: list[str] = field(default_factory=list)
    """Conversions of norms, scales, thresholds and layout, one sentence each, to be shown to the user."""

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
    """File of weights, relative to the SAE's folder; `*.pt` if the file may have any name."""
    read: Callable[[Path], Checkpoint]
    """Reads a folder (or, if `weights` is a pattern, a file); raises CheckpointError."""
    config: str = ""
    """JSON file beside the weights; empty if there is none."""
    mark: str = ""
    """A key that only this format's config has, by which a folder without weights is recognised."""
    extras: tuple[str, ...] = ()
    """Further optional files, relative to the folder, that describe the SAE."""
    read_scaled: Callable[[Path, float], Checkpoint] | None = None
    """Reads one whose files do not say what activations were multiplied by in training; None where they always do."""
    write: Callable[[SAE, Path, Mapping[str, Any]], None] | None = None
    """Writes an SAE and its metadata to a folder; None if the format can only be read."""

    def recognises(self, path: Path) -> bool:
        """True if `path`, a folder or a file, looks like an SAE of this format; nothing is checked."""
        if path.is_file():
            return path.match(self.weights)
        if any(path.glob(self.weights)):
            return True
        try:
            return bool(self.config) and self.mark in read_json(path / self.config)
        except CheckpointError:
            return False


def normalising(name: str) -> str:
    """Return the note for an SAE that normalises each token's activations, by a name in `NORMALISATIONS`."""
    return f"Each token's activations are normalised ({name}) before they are encoded, and back after they are decoded."
