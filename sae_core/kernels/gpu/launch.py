# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Block sizes that all launches share, and differences between the interpreter and a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv, next_power_of_2

__all__ = ["accumulator", "cdiv", "lanes", "multiply", "next_power_of_2", "precision", "row_block", "warps"]

INTERPRETED = bool(triton.knobs.runtime.interpret)


def accumulator(tensor: Tensor) -> tl.dtype:
    """The type that sums of a tensor's entries are kept in: float32, or float64 for float64."""
    return tl.float64 if tensor.dtype == torch.float64 else tl.float32


def lanes(width: int) -> int:
    """Entries of the block that holds one row: a power of two."""
    return int(next_power_of_2(width))


def row_block(width: int) -> int:
    """Rows that a program has in flight at a time: eight where they are short, fewer where registers would not do."""
    return max(1, min(8, 8192 // lanes(width)))


def warps(width: int) -> int:
    """Warps for programs that hold a row: eight entries or more to each thread."""
    return max(1, min(8, lanes(width) // 256))


def precision(dtype: torch.dtype, tf32: bool = False) -> str:
    """Return the precision with which `multiply` takes products of this type.

    The interpreter would multiply the bit patterns of bfloat16 (Triton 3.7), so it widens them first; the products of
    bfloat16 numbers are exact in float32, as they are in a tensor core.
    """
    if dtype == torch.bfloat16 and INTERPRETED:
        return "widened"
    return "tf32" if tf32 else "ieee"


@triton.jit
def multiply(left, right, total, PRECISION: tl.constexpr):
    """Total + left @ right."""
    if PRECISION == "widened":
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total)
    else:  # noqa: RET505 - of two types, so that only one may be compiled
        return tl.dot(left, right, total, input_precision=PRECISION)
