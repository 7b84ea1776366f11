"""Export an SAE in a public format.

This is no run: it takes seconds, writes to a folder of the machine that the command was given on, which a worker may
not have, and leaves nothing that the site would show.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from app.errors import Conflict, UserError
from app.pipeline.registered import open_sae
from app.runs.job_context import JobContext
from sae_core.checkpoints import FORMATS
from sae_core.files import sha256_file
from sae_core.saes import SAE


async def export_sae(ctx: JobContext, slug: str, format: str, folder: Path) -> dict[str, Any]:
    """Write a registered SAE, with what is known of its origin, into `folder`, an absolute path.

    Raises:
        NotFound: there is no such SAE.
        CheckpointError: its files cannot be read, or the format cannot say what it does.
        Conflict: the folder holds something else.
        UserError: SeeSAE does not write this format, or the folder cannot be written.
        ArtifactError: the disk is full.
    """
    sae, detail = await open_sae(ctx, slug)
    try:
        files = _export(sae, format, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}. Choose another folder.") from error
    return {"sae": detail.slug, "features": detail.d_sae, "format": format, "folder": str(folder), "files": files}


def _export(sae: SAE, format: str, folder: Path) -> dict[str, str]:
    """Write the files beside `folder` and move them there; their hashes by name."""
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
