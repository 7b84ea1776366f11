"""Tensors on disk, in safetensors."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sae_core.files import write_atomically

_DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's names, in the order in which its library writes tensors: so that each tensor is aligned to its type."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, row-major, to one file, whole or not at all.

    Writes the bytes that `safetensors.torch.save` returns, one tensor at a time: that function holds all of them, and a
    training checkpoint is three times as large as its SAE. Its `save_file` would hide a full disk in an error of its
    own, and leave files behind if it is killed.

    Raises:
        ArtifactError: the disk is full.
    """
    order = list(_DTYPES)
    in_order = sorted(tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0]))
    header = _header(in_order, metadata)

    def write(file: BinaryIO) -> None:
        file.write(header)
        for _, tensor in in_order:
            if tensor.numel():  # an empty tensor may have strides that cannot be viewed as bytes
                row_major = tensor.detach().cpu().contiguous()
                file.write(row_major.reshape(-1).view(torch.uint8).numpy().data)

    write_atomically(path, write)


def _header(tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str] | None) -> bytes:
    """Return the length of the JSON in eight bytes, and the JSON, padded to a multiple of eight."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors:
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
