"""Tensors on disk, in safetensors."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from sae_core.files import write_atomically


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, row-major, to one file, whole or not at all.

    Raises:
        ArtifactError: the disk is full.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # save_file would hide a full disk in an error of its own.
    content = save(contiguous, dict(metadata) if metadata else None)
    write_atomically(path, lambda file: file.write(content))
