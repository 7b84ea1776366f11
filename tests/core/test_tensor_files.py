"""Tensors are written as the format's own library writes them, one at a time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from sae_core import tensor_files
from sae_core.tensor_files import write_tensors

MIXED = {
    "z.last": torch.arange(6, dtype=torch.int64).reshape(2, 3),
    "a.first": torch.linspace(0, 1, 12).reshape(3, 4),
    "transposed": torch.linspace(0, 1, 12).reshape(3, 4).t(),
    "number": torch.tensor(-1.0),
    "none": torch.empty(0, 5),
    "none of any stride": torch.empty_strided((0,), (0,)),
    "gradient": torch.nn.Parameter(torch.ones(3)),
    **{str(dtype): torch.ones(3, dtype=dtype) for dtype in tensor_files._DTYPES},
}


@pytest.mark.parametrize("metadata", [None, {"seesae": 'naïve "quotes" \n\\ 漢字 \u2028 \x7f'}])
def test_the_bytes_are_those_of_the_library(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    write_tensors(tmp_path / "ours", MIXED, metadata)
    assert (tmp_path / "ours").read_bytes() == save({k: v.contiguous() for k, v in MIXED.items()}, metadata)


def test_the_library_reads_them(tmp_path: Path) -> None:
    write_tensors(tmp_path / "ours", MIXED, {"a": "1", "b": "2"})
    for name, tensor in load_file(tmp_path / "ours").items():
        assert tensor.dtype == MIXED[name].dtype
        assert torch.equal(tensor, MIXED[name])
    with safe_open(tmp_path / "ours", framework="pt") as file:
        assert file.metadata() == {"a": "1", "b": "2"}


PEAK = """
import resource, sys, torch
from pathlib import Path
from sae_core.tensor_files import write_tensors

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

tensors = {str(i): torch.ones(4 << 20).view(2048, -1).t() for i in range(8)}
write_tensors(Path(sys.argv[1]) / "warm", {"one": tensors["0"][:8]})
before = peak()
write_tensors(Path(sys.argv[1]) / "all", tensors)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_grows_by_one_tensor_at_most(tmp_path: Path) -> None:
    """Eight transposed tensors of 16 MiB each, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 2 * (16 << 20)
    assert (tmp_path / "all").stat().st_size > 8 * (16 << 20)
