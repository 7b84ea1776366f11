"""A site is up no sooner than its supervisor and its worker are imported: neither imports what only others need."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("program", "unneeded"),
    [
        ("import app.cli, app.supervision.supervisor", ("sqlalchemy", "fastapi", "torch", "numpy")),
        (
            "from app.pipeline import steps; from app.runs import worker",
            ("fastapi", "sklearn", "scipy.stats", "datasets", "pandas", "umap", "numba"),
        ),
    ],
)
def test_processes_import_what_they_need_alone(program: str, unneeded: tuple[str, ...]) -> None:
    code = f"import sys; {program}; print([name for name in {unneeded} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
