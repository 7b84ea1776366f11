"""Helpers of the scripts here: the machine's name, and the tables that they write into README.md."""

import os
import platform
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, Any]:
    """The processor, its cores, and how busy they were when asked."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    cpu = model.group(1) if model else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{cpu} {cores} cores".lower()).strip("-")
    return {"cpu": cpu, "cores": cores, "slug": slug, "system": platform.platform(), "load": os.getloadavg()}


def write_table(name: str, table: str) -> None:
    """Replace what is between a script's markers in README.md."""
    first, last = f"<!-- {name}: written by {name}.py -->", f"<!-- /{name} -->"
    readme = HERE / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(first)
    after = rest.split(last)[1]
    readme.write_text(f"{before}{first}\n\n{table}\n\n{last}{after}", encoding="utf-8")
