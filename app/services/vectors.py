"""Vectors that people upload as safetensors files, read without torch."""

import base64
import json
import math
import struct
from collections.abc import Iterable, Sequence

from app.errors import Unprocessable

_FORMATS = {"F64": "d", "F32": "f", "F16": "e", "BF16": "H"}
_LENGTH = 8
"""Bytes in front of the header that hold its length."""


def read_vector(content: bytes) -> list[float]:
    """Return the one tensor of a safetensors file, a row of numbers.

    Raises:
        Unprocessable: it is not such a file, or holds something else.
    """
    try:
        header_length = int.from_bytes(content[:_LENGTH], "little")
        header = json.loads(content[_LENGTH : _LENGTH + header_length])
        tensors = {name: fields for name, fields in header.items() if name != "__metadata__"}
        kinds = [
            (str(fields["dtype"]), list(fields["shape"]), tuple(fields["data_offsets"])) for fields in tensors.values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unprocessable(
            "This is not a safetensors file: save the vector with safetensors.torch.save_file."
        ) from None
    if len(kinds) != 1:
        raise Unprocessable(f"The file holds {len(kinds)} tensors: save the one vector alone.")
    ((dtype, shape, offsets),) = kinds
    if dtype not in _FORMATS:
        raise Unprocessable(f"The vector's numbers are {dtype[:20]}: save it as float32.")
    width = _width(shape)
    data = content[_LENGTH + header_length :]
    size = struct.calcsize(_FORMATS[dtype])
    if offsets != (0, width * size) or len(data) != width * size:
        raise Unprocessable("The file is cut off or damaged: save the vector again.")
    return finite(_numbers(dtype, width, data))


def pack_vector(numbers: Sequence[float]) -> str:
    """Return a direction as text, as forms and parameters of runs have it: float32, in base64.

    Raises:
        Unprocessable: a number is too large for float32.
    """
    try:
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    except OverflowError:
        raise Unprocessable("A number of the vector is too large for float32: scale it down.") from None


def unpack_vector(packed: str) -> list[float]:
    """Return the direction that `pack_vector` wrote.

    Raises:
        Unprocessable: it is none.
    """
    try:
        content = base64.b64decode(packed, validate=True)
        numbers = struct.unpack(f"<{len(content) // 4}f", content)
    except (ValueError, struct.error):
        raise Unprocessable("This is not a direction: give float32 numbers in base64.") from None
    return finite(numbers)


def _width(shape: list[object]) -> int:
    long = [length for length in shape if length != 1] or [1]
    if len(long) != 1 or not isinstance(long[0], int) or long[0] < 1:
        raise Unprocessable(f"The tensor's shape is {str(shape)[:60]}, and a direction is one row of numbers.")
    return long[0]


def _numbers(dtype: str, width: int, data: bytes) -> Iterable[float]:
    values = struct.unpack(f"<{width}{_FORMATS[dtype]}", data)
    if dtype == "BF16":  # the upper half of a float32
        return struct.unpack(f"<{width}f", b"".join(struct.pack("<HH", 0, value) for value in values))
    return values


def finite(values: Iterable[float]) -> list[float]:
    """Return the numbers of a direction.

    Raises:
        Unprocessable: one is infinite or not a number, or all are zero.
    """
    numbers = [float(value) for value in values]
    wrong = next((place for place, value in enumerate(numbers) if not math.isfinite(value)), None)
    if wrong is not None:
        raise Unprocessable(f"The vector's number {wrong} is {numbers[wrong]}: a direction needs finite numbers.")
    if not any(numbers):
        raise Unprocessable("The vector is zero everywhere, so it has no direction.")
    return numbers
