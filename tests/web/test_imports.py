"""The web process is light: it never imports torch."""

import json
import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "sae_core.saes", "app.pipeline.steps", "app.inference")
PROGRAM = """
import json, sys
import app.main
import psutil
print(json.dumps({"modules": sorted(sys.modules), "mb": psutil.Process().memory_info().rss / 2**20}))
"""


def test_the_web_process_is_light() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    measured = json.loads(result.stdout)
    assert [name for name in HEAVY if name in measured["modules"]] == []
    assert measured["mb"] < 200
