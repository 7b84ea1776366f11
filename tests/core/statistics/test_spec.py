"""The declarations of statistics are complete, and light enough for the web process."""

import subprocess
import sys

from sae_core.statistics.moments import MOMENTS
from sae_core.statistics.spec import BY_NAME, HEALTH_FLAGS, PLAIN, RANKED_LISTS, STATISTICS


def test_importing_the_declarations_loads_neither_torch_nor_numpy() -> None:
    program = "import sys, sae_core.statistics.spec; print([n for n in ('torch', 'numpy') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_name_is_declared_once() -> None:
    assert len(BY_NAME) == len(STATISTICS)
    fields = [*(statistic.name for statistic in PLAIN), *(ranked.name for ranked in RANKED_LISTS), *HEALTH_FLAGS]
    assert len(fields) == len(set(fields))


def test_every_moment_is_declared() -> None:
    assert MOMENTS.keys() <= {statistic.name for statistic in PLAIN}
