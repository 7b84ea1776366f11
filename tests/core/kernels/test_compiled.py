import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

KERNELS = {
    "_add_outer", "_add_parts", "_centre", "_count_digits", "_count_kept", "_decode", "_descend", "_entry_products",
    "_f_gradients", "_group_peaks", "_pick_digit", "_product", "_reconstruct", "_residual", "_row_entries",
    "_row_groups", "_select", "_prepare_step", "_squared_norms", "_sum_parts", "_take_in", "_write_kept",
}  # fmt: skip
SHARED_MEMORY = 227 << 10
"""Of a program on an H100, in bytes."""


@pytest.mark.parametrize("arguments", [("bf16", "768", "4096", "32"), ("float32", "33", "130", "3")])
def test_all_kernels_compile_for_an_h100_and_fit(arguments, tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.core.kernels.compiled", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {kernel["name"] for kernel in found} == KERNELS
    assert max(kernel["shared"] for kernel in found) <= SHARED_MEMORY
    if arguments[0] == "bf16":
        on_tensor_cores = {kernel["name"] for kernel in found if kernel["tensor_cores"]}
        assert on_tensor_cores == {"_product", "_residual", "_f_gradients", "_add_outer"}
        assert not any(kernel["stack"] for kernel in found), "registers spill"
