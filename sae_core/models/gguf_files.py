"""Let `transformers` read a GGUF file quickly: metadata once, one map of tensor names, one pass over the weights."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType
from numpy.typing import NDArray
from transformers import modeling_gguf_pytorch_utils

_CHUNK = 1 << 17
"""Weights that are dequantised at once: few enough that all intermediate arrays stay in the processor's cache."""


@contextmanager
def read_once() -> Iterator[None]:
    """Keep what `gguf` reads while the body runs. Nothing else may use `gguf` meanwhile.

    `transformers` makes a reader for the tokenizer, one for the config and one for the tensors, each of which it parses
    whole, and a map of tensor names for every module of the model. It takes all of it from `gguf` when it needs it.
    A version that takes it from elsewhere reads the same, and is slow again: the tests count the readers. Since 5.23 it
    reads the metadata four more times by its own reader, of which nothing is patched.
    """
    values = patch.object(modeling_gguf_pytorch_utils, "_gguf_parse_value", parse_value, create=True)  # a private name
    with (
        values,
        patch.object(gguf, "GGUFReader", cache(FastReader)),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
        patch.object(gguf, "dequantize", dequantize),
    ):
        yield


def parse_value(part: Any, types: list[GGUFValueType]) -> Any:
    """Return one value of a field, as `transformers` does; it turns each byte of a string into a number first."""
    return str(part, "utf-8") if types[-1] is GGUFValueType.STRING else part.item()


def dequantize(data: NDArray[Any], kind: GGMLQuantizationType) -> NDArray[np.float32]:
    """Return the weights `[..., columns]` of `data [..., bytes of a row]`, as `gguf.dequantize` does.

    That one goes through groups of 16 rows, keeps all of them, and then joins them.
    """
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return gguf.quants.dequantize(data, kind)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    rows = data.reshape(-1, data.shape[-1])
    weights = np.empty((len(rows), rows.shape[1] // block_bytes * block), np.float32)
    step = max(1, _CHUNK // weights.shape[1])
    for start in range(0, len(rows), step):
        chunk = weights[start : start + step]
        chunk[...] = gguf.quants.dequantize(rows[start : start + step].reshape(1, -1), kind).reshape(chunk.shape)
    return weights.reshape(*data.shape[:-1], -1)


class FastReader(GGUFReader):
    """The same fields and tensors as `GGUFReader`, whose slices of a mapped file are slow."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)

    @property
    def data(self) -> Any:
        """Bytes of the file: a plain array of the mapped memory, because a `memmap` is slow to slice."""
        return self._data

    @data.setter
    def data(self, mapped: np.memmap[Any, Any]) -> None:
        self._data = mapped.view(np.ndarray)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        """Return the bytes, parts, indices of the values among them, and types of one field."""
        if raw_type != GGUFValueType.ARRAY or self.byte_order != "I":
            return super()._get_field_parts(orig_offs, raw_type)
        head = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
        item, length = GGUFValueType(int(head[0][0])), int(head[1][0])
        start = orig_offs + 12
        if length == 0 or (item != GGUFValueType.STRING and item not in self.gguf_scalar_to_np):
            return super()._get_field_parts(orig_offs, raw_type)
        types = [GGUFValueType.ARRAY, item]
        if item == GGUFValueType.STRING:
            end, parts = self._strings(start, length)
            return end - orig_offs, head + parts, list(range(3, 3 + 2 * length, 2)), types
        values = self._get(start, self.gguf_scalar_to_np[item], length)
        return start + values.nbytes - orig_offs, head + list(values.reshape(-1, 1)), list(range(2, 2 + length)), types

    def _strings(self, start: int, count: int) -> tuple[int, list[Any]]:
        """Return where `count` strings end, and the length and the bytes of each."""
        data, parts = memoryview(self._data.data), []  # sliced three times as fast as an array
        for _ in range(count):
            size = data[start : start + 8]
            end = start + 8 + int.from_bytes(size, sys.byteorder)
            parts += [size, data[start + 8 : end]]
            start = end
        return start, parts
