"""Resident memory of this process, in megabytes of 10^6 bytes."""

import resource
import sys
from pathlib import Path

_PROC = Path("/proc/self")


def rss_mb() -> float:
    """Return the current resident memory; without /proc, the peak."""
    if not _PROC.exists():
        return peak_rss_mb()
    return int((_PROC / "statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def peak_rss_mb() -> float:
    """Return the peak since `forget_peak`, or since the process started."""
    for line in (_PROC / "status").read_text().splitlines() if _PROC.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def forget_peak() -> None:
    """Reset the peak to the current value, if the system can (Linux: proc(5), clear_refs)."""
    if _PROC.exists():
        (_PROC / "clear_refs").write_text("5")
