"""seesae import and export: statuses, messages, and what becomes of paths."""

import json
import os
import re
from pathlib import Path
from typing import get_args

import psycopg
import pytest

from app.database_url import libpq_url
from app.pipeline import export
from app.pipeline.import_sae import Format
from sae_core.checkpoints import FORMATS, save_sae
from tests.app.cli.test_cli import plain, seesae
from tests.core.checkpoints.hub_server import Hub, serve
from tests.tiny import CORPUS_FILE, tiny_model


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    return database_url


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny-llama")


def asked_for(database_url: str) -> dict[str, str]:
    """The parameters of the newest run."""
    with psycopg.connect(libpq_url(database_url)) as connection:
        row = connection.execute("SELECT params FROM run ORDER BY id DESC LIMIT 1").fetchone()
    assert row is not None
    params: dict[str, str] = row[0]
    return params


@pytest.mark.parametrize("command", ["import", "export"])
def test_help_has_examples(command: str) -> None:
    assert command in seesae("--help").stdout
    shown = seesae(command, "--help")
    assert shown.exit_code == 0
    assert re.search(rf"Examples:\s+seesae {command}", shown.stdout)


def test_every_format_is_offered() -> None:
    assert set(get_args(Format)) == {*FORMATS, "neuronpedia"}
    weights = set(get_args(export.Format)) - {*export.OF_FEATURES, export.LABELS}
    assert weights == {name for name, layout in FORMATS.items() if layout.write}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("import",), "SOURCE"),
        (("import", "somewhere", "--format", "npz"), "gemma_scope"),
        (("import", "somewhere", "--name", "Not a slug!"), "--name"),
        (("export", "sae", "there"), "--format"),
        (("export", "sae", "--format", "saelens"), "DEST"),
        (("export", "sae", "there", "--format", "npz"), "dictionary_learning"),
        (("export", "sae", "there", "--format", "site", "--features", "5-3"), "backwards"),
        (("export", "sae", "there", "--format", "saelens", "--features", "5"), "weights of all features"),
    ],
)
def test_bad_usage_exits_with_2_before_anything_is_done(arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    result = seesae(*arguments)
    assert result.exit_code == 2
    assert named in plain(result.stderr)
    assert not (tmp_path / "home").exists()


def test_an_exported_sae_can_be_imported_and_indexed(
    database: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--width", "64", "--k", "4", "--samples", "4000", "--length", "32", "--name", "mine")
    corpus = ("--corpus", str(CORPUS_FILE))
    trained = seesae("train", "--model", str(model_folder), "--hook", "resid_post.1", *corpus, *options)
    assert trained.exit_code == 0, trained.stderr

    exported = seesae("export", "mine", "shared/layer_1", "--format", "dictionary_learning")
    assert exported.exit_code == 0, exported.stderr
    assert exported.stdout.splitlines()[-1] == (
        f"{tmp_path / 'shared' / 'layer_1'} holds mine as dictionary_learning: ae.pt, config.json."
    )
    again = seesae("export", "mine", "shared/layer_1", "--format", "dictionary_learning", "--json")
    written = json.loads(again.stdout)
    assert (written["sae"], written["features"], written["format"]) == ("mine", 64, "dictionary_learning")
    assert written["folder"] == str(tmp_path / "shared" / "layer_1")
    assert written["files"].keys() == {"ae.pt", "config.json"}

    imported = seesae("import", "shared/layer_1", "--name", "theirs", "--json")
    assert imported.exit_code == 0, imported.stderr
    (line,) = imported.stdout.splitlines()
    result = json.loads(line)
    assert (result["sae"], result["features"], result["format"]) == ("theirs", 64, "dictionary_learning")
    assert (result["model"], result["hook"], result["k"]) == ("tiny-llama", "resid_post.1", 4)
    assert isinstance(result["notes"], list)
    assert list(result["seconds"]) == ["read", "fetch", "load", "register"]
    assert "Read and convert the SAE: done in" in imported.stderr
    assert asked_for(database)["source"] == str(tmp_path / "shared" / "layer_1")

    indexed = seesae("index", "theirs", *corpus, "--length", "32", "--json")
    assert indexed.exit_code == 0, indexed.stderr


def test_notes_of_an_import_are_printed_one_per_line(
    database: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from sae_core.saes import TopK
    from sae_core.saes.topk import TopKConfig

    monkeypatch.chdir(tmp_path)
    sae = TopK(TopKConfig(d_in=32, d_sae=64, k=4))
    sae.initialise(torch.randn(100, 32), seed=0)
    save_sae(sae, "sae", {"model_name": "none", "hook_name": "blocks.1.hook_resid_post"})
    model = os.path.relpath(model_folder)
    result = seesae("import", "sae", "--model", model, "--hook", "resid_post.2")
    assert result.exit_code == 0, result.stderr
    *facts, note, hint = result.stdout.splitlines()
    assert note == "It is used at resid_post.2, as given; the checkpoint says blocks.1.hook_resid_post."
    assert hint == ("Count its features on a corpus next: seesae index tiny-llama-l2-topk-64-k4 --corpus CORPUS")
    assert not any("notes" in fact for fact in facts)
    assert asked_for(database)["model"] == str(model_folder)


def test_failures_are_reported_in_one_line(
    database: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serve(Hub({})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        unknown = seesae("import", "hf:nobody/none/layer_1@main")
    assert unknown.exit_code == 1
    assert unknown.stdout == ""
    assert unknown.stderr.splitlines()[-1].startswith("Error: There is no path nobody/none/layer_1@main")
    assert asked_for(database)["source"] == "hf:nobody/none/layer_1@main"

    wrong = seesae("import", str(model_folder))
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr.splitlines()[-1].startswith("Error: ")
    assert "language model, not an SAE" in wrong.stderr

    none = seesae("export", "none", "shared", "--format", "saelens")
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr == "Error: There is no SAE “none”. Train one first.\n"
    assert not (tmp_path / "shared").exists()


EXPORTS = Path(__file__).parents[2] / "fixtures" / "neuronpedia"


def test_statistics_can_be_imported_and_exported(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    imported = seesae("import", str(EXPORTS / "release"), "--json")
    assert imported.exit_code == 0, imported.stderr
    result = json.loads(imported.stdout)
    assert (result["sae"], result["format"], result["features"]) == ("gpt2-small-9-res-jb", "neuronpedia", 5)
    assert list(result["seconds"]) == ["read", "register", "publish"]
    assert asked_for(database)["format"] == "neuronpedia"

    site = seesae("export", result["sae"], "shared/site", "--format", "site", "--features", "0-3")
    assert site.exit_code == 0, site.stderr
    summary = site.stdout.splitlines()[-1]
    assert summary.startswith(f"{tmp_path / 'shared' / 'site'} holds 3 features of gpt2-small-9-res-jb as site: ")
    assert summary.endswith("Open index.html.")
    assert (tmp_path / "shared" / "site" / "features" / "3.html").exists()
    assert "Write the files: done in" in site.stderr

    labels = seesae("export", result["sae"], "shared/labels", "--format", "labels", "--features", "0-4")
    assert labels.exit_code == 0, labels.stderr
    rows = (tmp_path / "shared" / "labels" / "labels.jsonl").read_text("utf-8").splitlines()
    folder = tmp_path / "shared" / "labels"
    assert labels.stdout.splitlines()[-1] == (f"{folder} holds {len(rows)} labels of gpt2-small-9-res-jb, one per row.")
    assert {json.loads(row)["author"] for row in rows} >= {"neuronpedia:someone"}

    release = seesae("export", result["sae"], "shared/release", "--format", "neuronpedia", "--json")
    assert json.loads(release.stdout)["features"] == 5
    again = seesae("import", "shared/release", "--name", "again")
    assert again.exit_code == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "Its features can be browsed now: seesae serve"

    for arguments in (("export", result["sae"], "shared/weights", "--format", "saelens"), ("index", "again")):
        refused = seesae(*arguments, *(("--corpus", str(CORPUS_FILE)) if arguments[0] == "index" else ()))
        assert refused.exit_code == 1
        assert "imported as statistics only" in refused.stderr.splitlines()[-1]


def test_damaged_statistics_are_reported_in_one_line(database: str, tmp_path: Path) -> None:
    (tmp_path / "batch-0.json").write_text('{"model_id": "a", "features": [{"feature_index": 0, "pos_str": [1')
    refused = seesae("import", str(tmp_path))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.splitlines()[-1].startswith("Error: batch-0.json: Invalid JSON: EOF while parsing")
