"""That freed memory is used again, seen in the page faults of a process of its own; and pauses of the collector."""

import gc
import subprocess
import sys

import pytest

from sae_core.memory import without_garbage_collection

ALLOCATE = """
import resource
from sae_core.memory import reuse_freed_memory
{call}
block = bytearray(64 << 20)
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = bytearray(64 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * (64 << 20) // 4096


def faults(call: str) -> int:
    script = ALLOCATE.format(call=call)
    return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_a_freed_block_is_reused_instead_of_zeroed_again_by_the_kernel():
    assert faults("reuse_freed_memory()") < PAGES / 100
    assert faults("") > 0.9 * PAGES  # else this system needs no help, and the test shows nothing


def test_the_garbage_collector_is_on_again_after_a_failure_and_stays_off_where_it_was():
    with pytest.raises(OSError, match="disk"), without_garbage_collection():
        assert not gc.isenabled()
        raise OSError("disk")
    assert gc.isenabled()
    gc.disable()
    try:
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
