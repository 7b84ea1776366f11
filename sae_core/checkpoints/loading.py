"""Read an SAE from a path or the hub, and write one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_core.checkpoints import saelens
from sae_core.checkpoints.base import Checkpoint
from sae_core.checkpoints.formats import FORMATS, detect, folder_of, missing
from sae_core.checkpoints.hub import PREFIX, Address, fetch
from sae_core.checkpoints.reading import drop_none, positive_int
from sae_core.errors import CheckpointError, ModelError, first_line
from sae_core.files import exists_partly, expand_home
from sae_core.models import HookPoint
from sae_core.saes import SAE


def load_sae(source: str | Path, *, activation_scale: float | None = None) -> SAE:
    """Read an SAE in any format that SeeSAE knows, in float32 on the CPU.

    Args:
        source: a folder, a file, or `org/repo[/folder][@revision]` on the hub.
        activation_scale: see `load`.

    Raises:
        CheckpointError: there is none, or it cannot be read; the message says why.
    """
    return load(source, activation_scale=activation_scale).sae


def save_sae(sae: SAE, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an SAE's inference form in SAELens' layout.

    Args:
        sae: any architecture.
        folder: made if it does not exist.
        metadata: its origin, as `SAE.metadata` has it; None takes the SAE's own.
    """
    saelens.write(sae, Path(folder), sae.metadata if metadata is None else metadata)


def load(source: str | Path, format: str | None = None, *, activation_scale: float | None = None) -> Checkpoint:
    """Read an SAE of any format, with notes on what was converted.

    Args:
        source: see `locate`.
        format: a name in `FORMATS`; None detects it.
        activation_scale: what activations were multiplied by in training, where the files do not say it.

    Raises:
        CheckpointError: there is no SAE, it is damaged, or SeeSAE cannot do what it does; the message says which.
        ArtifactError: the disk is full as it is fetched.
    """
    if format is not None and format not in FORMATS:
        raise CheckpointError(f"There is no format {format!r}. Give one of {', '.join(FORMATS)}.")
    located = locate(source)
    path = folder_of(located.path)
    layout = FORMATS[format or detect(path)]
    if activation_scale is None:
        checkpoint = layout.read(path)
    elif layout.read_scaled is not None:
        checkpoint = layout.read_scaled(path, activation_scale)
    else:
        raise CheckpointError(f"An SAE of {layout.name} has its scale in its files. Leave `activation_scale` out.")
    checkpoint.sae.metadata = {**checkpoint.metadata, **located.origin}
    checkpoint.notes.extend(_text(path, checkpoint.metadata))
    checkpoint.notes.extend(_unknown_hooks(checkpoint))
    return checkpoint


@dataclass(frozen=True)
class Located:
    """An SAE's files on this machine."""

    path: Path
    """Folder or file."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """For an SAE of the hub its `source`, an address, and its `revision`, a commit; empty for a local path."""


def locate(source: str | Path) -> Located:
    """Find an SAE's files, downloading them from the hub if they are not on the disk.

    Args:
        source: a folder or file, or `org/repo[/folder][@revision]` on the hub. A path of which at least the first
            folder exists wins, unless the address begins with `hf:`.

    Raises:
        CheckpointError: there is neither such a path nor such an SAE on the hub.
        ArtifactError: the disk is full.
    """
    if not str(source).startswith(PREFIX):
        try:
            path = expand_home(source)
            if path.exists():
                return Located(path)
            if exists_partly(str(source)):
                raise missing(path)
        except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a user or byte that is none
            raise CheckpointError(f"{str(source)[:80]!r} is no path: {first_line(error)}. Check it.") from error
    address = Address.parse(str(source))
    if address is None:
        raise CheckpointError(f"There is no SAE at {source}. Check the path, or give org/repo/folder on the hub.")
    fetched = fetch(address)
    return Located(fetched.path, {"source": fetched.source, "revision": fetched.revision})


def _text(path: Path, metadata: Mapping[str, Any]) -> list[str]:
    """Check what the metadata says of the texts in training; a note where they do not begin as SeeSAE's do otherwise.

    Raises:
        CheckpointError: it is of the wrong type.
    """
    known = drop_none(**{name: metadata.get(name) for name in ("prepend_bos", "context_size")})
    if "context_size" in known:
        positive_int(path, known, "context_size")
    prepend_bos = known.get("prepend_bos", True)
    if not isinstance(prepend_bos, bool):
        raise CheckpointError(
            f"{path} says prepend_bos is {prepend_bos!r}, not true or false. Copy the SAE here again."
        )
    return [] if prepend_bos else ["No BOS token is put in front of texts, because the config says prepend_bos: false."]


def _unknown_hooks(checkpoint: Checkpoint) -> list[str]:
    """A note for each hook point that is not one of SeeSAE's, so that the user has to say where to read."""
    notes = []
    for key in ("hook_name", "hook_name_out"):
        name = checkpoint.metadata.get(key)
        try:
            if name is not None:
                HookPoint.parse(str(name))
        except ModelError:
            shown = name if str(name).isprintable() else repr(name)
            notes.append(f"{key} is {shown}, which is not a hook point that SeeSAE can read: name one yourself.")
    return notes
