"""The end of a command: interrupted, ended by a signal, or with nowhere to write its result."""

import subprocess
import sys

import pytest

INTERRUPTED_IMPORT = """
import importlib.util
import sys
from app.cli import main

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name != module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def interrupted(module):
            execute(module)
            raise KeyboardInterrupt

        spec.loader.exec_module = interrupted
        return spec

module = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupts())
main()
"""


@pytest.mark.parametrize("module", ["app.tables.comparisons", "sqlalchemy"])
def test_an_interrupt_in_the_middle_of_an_import_is_one_line(module: str) -> None:
    command = ["index", "a", "--corpus", "c"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "Stopped. The same command continues from here.\n"
