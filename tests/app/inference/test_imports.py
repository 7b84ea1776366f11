"""The first probe waits for the inference process' imports, so it imports nothing that only other work needs."""

import json
import subprocess
import sys

UNNEEDED = ("sklearn", "scipy.stats", "scipy.signal", "datasets", "pandas", "umap", "app.pipeline.steps")
PROGRAM = "import app.inference.server, json, sys; print(json.dumps(sorted(sys.modules)))"


def test_the_inference_process_imports_what_it_needs_alone() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    imported = json.loads(result.stdout)
    assert "torch" in imported
    assert [name for name in UNNEEDED if name in imported] == []
