"""Settings of the C library's memory allocator, and of Python's garbage collector."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 1 << 30
"""Bytes: blocks up to this size are reused, and at most this much stays with the process unused."""


def reuse_freed_memory() -> None:
    """Let this process keep large blocks that it frees, for the next ones.

    By default glibc maps every block above 32 MB again and unmaps it when it is freed, and each time the kernel zeroes
    it page by page. A batch's pre-activations are such a block: on two cores a training step spent a seventh of its
    time on that. With another C library nothing happens. A second call changes nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Let the body make many objects that stay, without searching them for garbage again and again.

    Threads may overlap: at worst the first that ends turns the collector on for the others too.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
