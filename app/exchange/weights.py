"""Export an SAE in a public format."""

import shutil
import tempfile
from pathlib import Path

from app.errors import Conflict, UserError
from sae_core.checkpoints import FORMATS
from sae_core.files import sha256_file
from sae_core.saes import SAE


def export_sae(sae: SAE, format: str, folder: Path) -> dict[str, str]:
    """Write an SAE, with what is known of its origin, into `folder`, and return the hashes of its files by name.

    Raises:
        CheckpointError: the format cannot express what the SAE computes.
        Conflict: the folder holds something else.
        UserError: SeeSAE does not write this format, or the folder cannot be written.
        ArtifactError: the disk is full.
    """
    try:
        return _export(sae, format, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}. Choose another folder.") from error


def _export(sae: SAE, format: str, folder: Path) -> dict[str, str]:
    """Write the files beside `folder`, then move them into it."""
    writable = {name: layout.write for name, layout in FORMATS.items() if layout.write is not None}
    if format not in writable:
        raise UserError(f"SeeSAE does not write {format!r}. Give one of {', '.join(writable)}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".seesae-export-") as name:
        written = Path(name)
        writable[format](sae, written, sae.metadata)
        files = _sha256_of_files(written)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if not folder.is_dir() or _sha256_of_files(folder) != files:
                raise Conflict(f"{folder} is there already and holds something else. Give a new or an empty folder.")
            return files
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.move(written / file, folder / file)
    return files


def _sha256_of_files(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) if path.is_file() else "" for path in sorted(folder.iterdir())}
