"""seesae textset: files, built-in sets, and what is refused."""

import json
from pathlib import Path

import pytest

from app.cli import text_sets
from app.settings import get_settings
from tests.app.cli.test_cli import seesae


@pytest.fixture(autouse=True)
def settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    get_settings.cache_clear()


def test_a_set_is_added_listed_shown_and_deleted(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text("review,stars\nvery good,5\nso bad,1\nSo  bad,1\n")
    done = seesae("textset", "add", "reviews", str(file), "--text", "review", "--label", "stars", "--json")
    assert done.exit_code == 0, done.stderr
    added = json.loads(done.stdout.splitlines()[-1])
    assert (added["texts"], added["labels"], added["duplicates"]) == (3, {"5": 1, "1": 2}, 1)
    assert "reviews: 3 texts (1: 2, 5: 1)" in seesae("textset", "list").stdout
    listed = json.loads(seesae("textset", "list", "--json").stdout.splitlines()[-1])
    assert [each["name"] for each in listed["textsets"]] == ["reviews"] and "crows-pairs" in listed["built_in"]
    shown = " ".join(seesae("textset", "show", "reviews").stdout.split())
    assert "1 text repeats the words of another" in shown and "No text is in" in shown
    assert seesae("textset", "delete", "reviews").exit_code == 1  # nobody answers
    assert seesae("textset", "delete", "reviews", "--yes").exit_code == 0
    assert seesae("textset", "show", "reviews").exit_code == 1


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": 3}\n')
    for arguments, words in (
        (("moods", str(file)), "Line 1 of x.jsonl: “text” is a number"),
        (("Moods!", str(file)), "cannot be the name"),
        (("moods", str(tmp_path / "none.txt")), "cannot be read"),
        (("moods", str(tmp_path)), "cannot be read"),
        (("moods",), "no built-in set “moods”: name a file, or one of crows-pairs"),
    ):
        refused = seesae("textset", "add", *arguments)
        assert (refused.exit_code, words in " ".join(refused.stderr.split())) == (1, True), refused.stderr
    monkeypatch.setattr(text_sets, "MAX_BYTES", 3)
    assert "larger than" in seesae("textset", "add", "moods", str(file)).stderr
    file.write_text('"a"\n')
    monkeypatch.setattr(text_sets, "MAX_BYTES", 1000)
    assert seesae("textset", "add", "moods", str(file)).exit_code == 0
    again = seesae("textset", "add", "moods", str(file))
    assert (again.exit_code, "already" in again.stderr) == (1, True)
