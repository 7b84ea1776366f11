"""Public checkpoint formats: one file a format, read and where it makes sense written."""

from pathlib import Path

from sae_core.checkpoints.base import Checkpoint, Format
from sae_core.checkpoints.formats import FORMATS, detect, folder_of
from sae_core.checkpoints.hub import PREFIX, Address, fetch
from sae_core.errors import CheckpointError, ModelError
from sae_core.models import HookPoint

__all__ = ["FORMATS", "Checkpoint", "Format", "detect", "load"]


def load(source: str | Path, format: str | None = None) -> Checkpoint:
    """Read an SAE of any format, in float32 on the CPU.

    Args:
        source: a folder or file, or `org/repo[/folder][@revision]` on the hub. What exists on the disk wins, unless
            `hf:` is in front.
        format: a name in `FORMATS`; None finds out.

    Raises:
        CheckpointError: there is no SAE, it is damaged, or SeeSAE cannot do what it does; the message says which.
        ArtifactError: if the disk is full as it is fetched.
    """
    if format is not None and format not in FORMATS:
        raise CheckpointError(f"There is no format {format!r}. Give one of {', '.join(FORMATS)}.")
    path, origin = Path(source).expanduser(), {}
    if str(source).startswith(PREFIX) or not path.exists():
        address = Address.parse(str(source))
        if address is None:
            raise CheckpointError(f"There is no SAE at {source}. Check the path, or give org/repo/folder on the hub.")
        fetched = fetch(address)
        path, origin = fetched.path, {"source": fetched.source, "revision": fetched.revision}
    path = folder_of(path)
    checkpoint = FORMATS[format or detect(path)].read(path)
    checkpoint.sae.metadata = {**checkpoint.metadata, **origin}
    checkpoint.notes.extend(_unknown_hooks(checkpoint))
    return checkpoint


def _unknown_hooks(checkpoint: Checkpoint) -> list[str]:
    """A note for each hook point that is not one of SeeSAE's, so that the user has to say where to read."""
    notes = []
    for key in ("hook_name", "hook_name_out"):
        name = checkpoint.metadata.get(key)
        try:
            if name is not None:
                HookPoint.parse(str(name))
        except ModelError:
            notes.append(f"{key} is {name}, which is not a hook point that SeeSAE can read: name one yourself.")
    return notes
