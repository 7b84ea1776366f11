"""seesae import-labels: files of an export, what it refuses, and how."""

import json
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.exchange.labels import export_labels
from app.settings import get_settings
from tests.app.cli.test_cli import seesae
from tests.factories import Synthetic, add_label


@pytest.fixture
async def exported(
    made: Synthetic,
    sessionmaker: async_sessionmaker[AsyncSession],
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    get_settings.cache_clear()
    async with sessionmaker.begin() as session:
        await add_label(session, made.sae, 5, "rivers", author="grace")
    await export_labels(sessionmaker, made.sae.slug, tmp_path / "out")
    return tmp_path / "out"


def test_exported_labels_are_imported_and_mistakes_named(exported: Path, made: Synthetic) -> None:
    done = seesae("import-labels", str(exported / "history.jsonl"), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["unchanged"] == 1
    for arguments in ((), ("--sae", made.sae.slug)):
        table = seesae("import-labels", str(exported / "labels.csv"), *arguments)
        assert "1 were here" in " ".join(table.stdout.split()), table.stderr
    header, row = (exported / "labels.csv").read_text().splitlines()
    (exported / "mixed.csv").write_text("\n".join([header, row, row.replace(made.sae.slug, "another")]))
    (exported / "nameless.csv").write_text("feature,author,explanation\n1,a,b")
    for arguments, code, words in (
        (("nothing.csv",), 1, "cannot be read"),
        ((str(exported / "nameless.csv"),), 1, "--sae"),
        ((str(exported / "mixed.csv"),), 1, "Line 3 is of another"),
        ((str(exported / "history.jsonl"), "--sae", "none"), 1, "no SAE"),
        ((str(exported / "history.jsonl"), "--person", "grace=Grace"), 1, "no account named Grace"),
        ((str(exported / "history.jsonl"), "--person", "grace"), 2, "NAME=ACCOUNT"),
    ):
        refused = seesae("import-labels", *arguments)
        assert (refused.exit_code, words in " ".join(refused.stderr.split())) == (code, True), refused.stderr
