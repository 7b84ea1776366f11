"""A new statistic needs the places that docs/architecture.md names, and no other.

The test makes the edits in a copy of the project: the median of a feature's non-zero activations. An index published
before, by the project as it is, lacks it.
"""

import asyncio
import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.paths import MIGRATIONS, STATIC, TEMPLATES
from app.schema import head
from tests.architecture.small_index import publish_small
from tests.core.statistics import small

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "app", ROOT / "sae_core", ROOT / "tests", MIGRATIONS, TEMPLATES, STATIC)

FUNCTION = '''
def median(block: FeatureBlock, strongest_first: Indices) -> NDArray[np.float32]:
    """Median of the non-zero activations."""
    descending = block.value[strongest_first]
    result = np.zeros(block.n_features, np.float32)
    active = block.count > 0
    first, counts = block.indptr[:-1][active], block.count[active]
    result[active] = (descending[first + (counts - 1) // 2] + descending[first + counts // 2]) / 2
    return result


MOMENTS:'''
DECLARATION = """    Statistic("median", "real", "Median of the non-zero activations."),
    _first("histogram","""
MIGRATION = '''"""The median of a feature's activations."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    op.add_column("feature", sa.Column("median", sa.REAL, comment="of the non-zero activations"))
'''
MEAN = "<dd>{{ view.detail.mean"
FACT = """{% if view.detail.extra.median is not none %}
<dt>median</dt><dd>{{ view.detail.extra.median | significant }}</dd>
{% endif %}
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's folders, copied."""
    folder = tmp_path / "project"
    for source in FOLDERS:
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def add_median(project: Path) -> set[str]:
    """Make the edits; return the files."""
    revision = f"{int(head()) + 1:04}"
    migration = project / "migrations" / "versions" / f"{revision}_median.py"
    migration.write_text(MIGRATION.format(revision=revision, before=head()))
    moments = project / "sae_core" / "statistics" / "moments.py"
    replace(moments, "\nMOMENTS:", FUNCTION)
    replace(moments, '    "mean": mean,\n', '    "mean": mean,\n    "median": median,\n')
    spec = project / "sae_core" / "statistics" / "spec.py"
    replace(spec, '    _first("histogram",', DECLARATION)
    template = project / "templates" / "features" / "_sections" / "measures.html"
    line = next(line for line in template.read_text().splitlines(keepends=True) if MEAN in line)
    replace(template, line, line + FACT)
    return {str(path.relative_to(project)) for path in (migration, moments, spec, template)}


def replace(path: Path, old: str, new: str) -> None:
    """Replace `old`, which occurs once."""
    content = path.read_text()
    assert content.count(old) == 1, (path, old)
    path.write_text(content.replace(old, new))


def changed(project: Path) -> set[str]:
    """Files that differ from the project's own."""
    files = [path.relative_to(project) for path in project.rglob("*") if path.is_file()]
    same = {str(path) for path in files if (ROOT / path).exists() and filecmp.cmp(project / path, ROOT / path, False)}
    return {str(path) for path in files} - same


@pytest.mark.slow
async def test_a_new_statistic_needs_only_the_places_that_docs_name(
    copy: Path, engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    await publish_small(engine, "before", tmp_path / "store")
    await engine.dispose()
    edited = add_median(copy)
    assert changed(copy) == edited

    command = [sys.executable, "-B", "-m", "tests.architecture.small_index", database_url, "before", "after", "20"]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    result = await asyncio.to_thread(
        subprocess.run, command, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])

    sequences = small.small_sequences()
    f = np.where(sequences.counted[:, :, None], small.small_activations(sequences), 0)
    values = [f[:, :, feature][f[:, :, feature] > 0] for feature in range(small.FEATURES)]
    medians = [float(np.median(active)) if len(active) else 0.0 for active in values]
    for place in ("database", "api", "export"):
        before, after = found["before"][place], found["after"][place]
        assert [row["median"] for row in before] == [None] * small.FEATURES
        assert [row["median"] for row in after] == pytest.approx(medians, rel=1e-6)
        assert after[small.DEAD]["coherence"] is None  # NaN in the arrays
        assert isinstance(after[small.DENSE]["coherence"], float)
        own = {"index_id", "median", "index", "labels"}
        assert [{k: v for k, v in row.items() if k not in own} for row in before] == [
            {k: v for k, v in row.items() if k not in own} for row in after
        ]
    assert found["after"]["export"] == found["after"]["api"]
    assert "<dt>median</dt>" in found["after"]["page"]
    assert "<dt>median</dt>" not in found["before"]["page"]
