"""seesae probe: its formats, its files, and what it refuses."""

import csv
import json
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli import probe
from app.settings import get_settings
from tests.app.cli.test_cli import seesae
from tests.app.inference.dictionaries import SLUG, Dictionary, activations, make_dictionary, publish


@pytest.fixture
async def made(engine: AsyncEngine, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Dictionary:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    monkeypatch.setenv("SEESAE_PROBE_MAX_TOKENS", "100")
    monkeypatch.setenv("SEESAE_DEVICE", "cpu")
    get_settings.cache_clear()
    dictionary = make_dictionary(tmp_path / "home")
    await publish(engine, dictionary)
    return dictionary


def test_texts_of_a_file_are_a_table_of_features_by_prompt(made: Dictionary, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("It was the best of times\n\n" + "times " * 150 + "\nThe nurse said\n", encoding="utf-8")
    done = seesae("probe", SLUG, "--file", str(file), "--top", "64", "--format", "csv", "--rank-by", "activation")
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    for number, text in ((0, "It was the best of times"), (2, "The nurse said")):
        maxima = activations(made, text).max(dim=0).values
        own = {int(row["feature"]): float(row["max"]) for row in rows if row["prompt"] == str(number)}
        assert own == {int(i): pytest.approx(maxima[i].item(), rel=1e-5) for i in maxima.nonzero().flatten()}
        assert list(own.values()) == sorted(own.values(), reverse=True)
    assert ["at most 100" in row["error"] for row in rows if row["prompt"] == "1"] == [True]


def test_the_other_formats_say_the_same(made: Dictionary) -> None:
    options = ("probe", SLUG, "--text", "The nurse said", "--text", "x", "--top", "2")
    whole = json.loads(seesae(*options, "--json").stdout.splitlines()[-1])
    assert whole["sae"] == made.row.slug
    lines = seesae(*options, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == whole["results"]
    table = seesae(*options).stdout
    assert "0  The nurse said" in table
    assert str(whole["results"][0]["features"][0]["index"]) in table


def test_what_cannot_be_probed_is_explained(made: Dictionary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seesae("probe", SLUG).exit_code == 2
    missing = seesae("probe", "other", "--text", "x")
    assert (missing.exit_code, "There is no SAE" in missing.stderr) == (1, True)
    file = tmp_path / "prompts.jsonl"
    for content, says in ((b'"one"\n{"text": 3}', "Line 2 of"), (b"\xff\xfe", "is not UTF-8"), (b"{", "Line 1 of")):
        file.write_bytes(content)
        refused = seesae("probe", SLUG, "--file", str(file))
        assert refused.exit_code == 1
        assert says in " ".join(refused.stderr.split())
    monkeypatch.setattr(probe, "MAX_TEXTS", 1)
    file.write_text('"a"\n{"text": "b"}\n', encoding="utf-8")
    assert "more than 1 texts" in " ".join(seesae("probe", SLUG, "--file", str(file)).stderr.split())
