"""seesae delete and seesae gc: statuses, what they state, and what becomes of the disk."""

import json
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database_url import libpq_url
from app.queries.saes import SaeDetail
from app.settings import get_settings
from tests.app.cli.test_cli import seesae
from tests.app.inference.dictionaries import SLUG, make_dictionary, publish
from tests.app.storage.test_removal import KEY, fill


@pytest.fixture
async def sae(engine: AsyncEngine, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> SaeDetail:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    get_settings.cache_clear()
    return await publish(engine, make_dictionary(tmp_path / "home"), with_store=True)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    return tmp_path / "home" / "artifacts"


def size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and path.parent.name != "locks")


async def count(database_url: str, table: str) -> int:
    async with await psycopg.AsyncConnection.connect(libpq_url(database_url)) as connection:
        row = await (await connection.execute(f"SELECT count(*) FROM {table}")).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def test_without_yes_and_without_a_terminal_it_states_what_would_go(sae: SaeDetail, artifacts: Path) -> None:
    before = size(artifacts)
    refused = seesae("delete", "sae", SLUG)
    assert refused.exit_code == 2
    said = " ".join(refused.stderr.split())
    assert f"Deleting the SAE {SLUG} takes its 64 features with it" in said
    assert "Add --yes" in said
    assert size(artifacts) == before


def test_with_yes_rows_and_files_go_and_the_bytes_are_those_of_the_disk(
    sae: SaeDetail, artifacts: Path, tmp_path: Path
) -> None:
    before = size(artifacts)
    model = size(tmp_path / "home" / "model")
    done = seesae("delete", "sae", SLUG, "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["file_bytes"] == before - size(artifacts) == before
    assert (result["kind"], result["name"], result["left"]) == ("sae", SLUG, [])
    again = seesae("delete", "sae", SLUG, "--yes")
    assert again.exit_code == 1
    assert "There is no SAE" in again.stderr
    for kind, name in (("corpus", "tiny"), ("model", "tiny")):
        assert seesae("delete", kind, name, "--yes").exit_code == 0
    assert size(tmp_path / "home" / "model") == model


@pytest.mark.parametrize("arguments", [("model", "tiny"), ("corpus", "tiny")])
def test_what_is_in_use_is_refused_with_names(sae: SaeDetail, arguments: tuple[str, str]) -> None:
    refused = seesae("delete", *arguments, "--yes")
    assert refused.exit_code == 1
    assert SLUG in refused.stderr


def test_bad_usage(sae: SaeDetail) -> None:
    assert seesae("delete", "feature", "1", "--yes").exit_code == 2
    assert seesae("delete", "sae").exit_code == 2
    assert seesae("delete", "sae", "../..", "--yes").exit_code == 1


def test_gc_lists_and_removes(sae: SaeDetail, artifacts: Path) -> None:
    needed = size(artifacts)
    assert "Everything on disk is needed" in seesae("gc").stdout
    fill(artifacts / "activations" / KEY, 5000)
    (artifacts / "notes.txt").write_text("mine")
    before = size(artifacts)
    listed = seesae("gc")
    assert listed.exit_code == 0
    for said in ("5.0 kB", f"activations/{KEY}", "a run that needs it makes it again", "seesae gc --yes", "notes.txt"):
        assert said in listed.stdout
    assert size(artifacts) == before
    result = json.loads(seesae("gc", "--yes", "--json").stdout.splitlines()[-1])
    assert result["bytes"] == before - size(artifacts) == 5002
    assert size(artifacts) == needed + len("mine")
    assert [Path(item["path"]).name for item in result["left_alone"]] == ["notes.txt"]


def test_doctor_says_what_takes_room(sae: SaeDetail, artifacts: Path) -> None:
    fill(artifacts / "activations" / KEY, 2_000_000)
    findings = json.loads(seesae("doctor", "--json").stdout.splitlines()[-1])["findings"]
    [room] = [finding["text"] for finding in findings if finding["subject"] == "Room"]
    assert "activation caches 2.0 MB" in room
    assert "database" in room
    assert "SAEs" in room
    assert "`seesae gc` would free 2.0 MB" in room
