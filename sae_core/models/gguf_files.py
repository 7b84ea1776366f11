"""Let `transformers` read a GGUF file quickly: each value once, one map of tensor names, many rows at a time."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType, quants
from numpy.typing import DTypeLike, NDArray
from transformers import modeling_gguf_pytorch_utils as transformers_gguf

_ROWS = 256
"""Of a tensor that are dequantised at a time; `gguf` takes 16, and spends half its time between them."""


@contextmanager
def read_once() -> Iterator[None]:
    """Keep what `gguf` reads while the body runs. Nothing else may use `gguf` meanwhile.

    `transformers` makes a reader for the tokenizer, one for the config and one for the tensors, each of which parses
    every value, and a map of tensor names for every module of the model.
    """
    with ExitStack() as patches:
        for module, name, quick in (
            (gguf, "GGUFReader", cache(FastReader)),
            (gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
            (transformers_gguf, "_gguf_parse_value", _parse_once(transformers_gguf._gguf_parse_value)),
            (quants, "_apply_over_grouped_rows", _apply_to_rows),
        ):
            patches.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, quick)
        yield


def _parse_once(parse: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return `parse` for values that stay in memory, which the reader's do."""
    parsed: dict[int, Any] = {}

    def parse_once(value: Any, types: Any) -> Any:
        if id(value) not in parsed:
            parsed[id(value)] = parse(value, types)
        return parsed[id(value)]

    return parse_once


def _apply_to_rows(
    func: Callable[[NDArray[Any]], NDArray[Any]], arr: NDArray[Any], otype: DTypeLike, oshape: tuple[int, ...]
) -> NDArray[Any]:
    """Return `func` of all rows; the names of the arguments are those that `gguf` gives."""
    rows = arr.reshape(-1, arr.shape[-1])
    out: NDArray[Any] = np.empty(oshape, otype)
    flat = out.reshape(len(rows), -1)
    for start in range(0, len(rows), _ROWS):
        flat[start : start + _ROWS] = func(rows[start : start + _ROWS])
    return out


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
