"""seesae export-model: from a file and from a saved edit, and what it refuses."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from transformers import AutoModelForCausalLM

from app.queries.edits import NewEdit, add_edit
from app.queries.people import ensure_name
from app.settings import get_settings
from sae_core import apply_edits
from sae_core.interventions import Edit, Intervention, Site, save_edit
from sae_core.interventions.edits import edit_to_json
from tests.app.cli.test_cli import seesae
from tests.app.inference.dictionaries import HOOK, Dictionary, make_dictionary, publish
from tests.tiny import tiny_model

TEXT = "It was the best of times, it was the"


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Dictionary:
    return make_dictionary(tmp_path_factory.mktemp("dictionary"))


def edit_of(dictionary: Dictionary, *changes: Intervention) -> Edit:
    given = changes or (Intervention("add", 3.0, feature=7),)
    return Edit.of("Test", dictionary.model, [Site(HOOK, given, dictionary.sae)])


def same_logits(dictionary: Dictionary, folder: Path, edit: Edit | Path) -> None:
    """The written model, loaded by transformers alone, against the edit on the plain model."""
    ids = torch.tensor([dictionary.model.tokenize(TEXT)])
    plain = AutoModelForCausalLM.from_pretrained(dictionary.model.source)
    with torch.no_grad():
        before = plain(ids).logits
        with apply_edits(plain, edit):
            expected = plain(ids).logits
        found = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - before).abs().max() > 0.01


def test_a_file_becomes_a_model(dictionary: Dictionary, tmp_path: Path) -> None:
    file, folder = tmp_path / "edit.json", tmp_path / "model"
    everywhere = edit_of(dictionary, Intervention("add", 3.0, feature=7, special_tokens=True))
    save_edit(everywhere, file)
    done = seesae("export-model", str(file), str(folder), "--model", str(dictionary.model.source), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["folder"] == str(folder)
    same_logits(dictionary, folder, everywhere)
    again = seesae("export-model", str(file), str(folder), "--model", str(dictionary.model.source))
    assert (again.exit_code, "there already" in " ".join(again.stderr.split())) == (1, True)


async def test_a_saved_edit_becomes_a_model_by_its_name(
    dictionary: Dictionary,
    engine: AsyncEngine,
    sessionmaker: async_sessionmaker[AsyncSession],
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae = await publish(engine, dictionary)
    async with sessionmaker.begin() as session:
        owner_id = await ensure_name(session, "ada")
    new = NewEdit(
        title="Test",
        author="ada",
        owner_id=owner_id,
        notes="",
        model_id=sae.model.id,
        saes=[(sae.id, sae.slug)],
        interventions=[],
        prompts=[],
        checks={},
        file=json.dumps(edit_to_json(edit_of(dictionary))),
    )
    async with sessionmaker.begin() as session:
        await add_edit(session, "test", new)
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    get_settings.cache_clear()

    async def run(*words: str) -> tuple[int, str]:
        done = await asyncio.to_thread(seesae, "export-model", *words)
        return done.exit_code, " ".join(done.stderr.split())

    folder = tmp_path / "model"
    code, said = await run("test", str(folder))
    assert (code, "spares BOS" in said, "--special-tokens" in said) == (1, True, True), said
    assert await run("test", str(folder), "--special-tokens") == (0, f"Loading {dictionary.model.source}")
    everywhere = edit_of(dictionary, Intervention("add", 3.0, feature=7, special_tokens=True))
    same_logits(dictionary, folder, everywhere)
    code, said = await run("none", str(tmp_path / "other"))
    assert (code, "There is no edit “none”" in said) == (1, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Intervention("clamp", 3.0, feature=7, special_tokens=True), "depends on its activation"),
        (Intervention("add", 3.0, feature=7, positions="prompt", special_tokens=True), "chosen positions"),
        (Intervention("add", 3.0, feature=7), "spares BOS"),
    ],
)
def test_what_cannot_be_folded_says_why(
    dictionary: Dictionary, tmp_path: Path, change: Intervention, says: str
) -> None:
    save_edit(edit_of(dictionary, change), tmp_path / "edit.json")
    refused = seesae("export-model", str(tmp_path / "edit.json"), str(tmp_path / "model"))
    assert refused.exit_code == 1
    assert says in " ".join(refused.stderr.split())
    assert "Loading" not in refused.stderr, "refused before the model is loaded"
    assert not (tmp_path / "model").exists()


def test_another_model_and_files_that_are_none_are_refused(dictionary: Dictionary, tmp_path: Path) -> None:
    file, folder = tmp_path / "edit.json", tmp_path / "model"
    missing = seesae("export-model", str(file), str(folder))
    assert (missing.exit_code, "cannot be read" in " ".join(missing.stderr.split())) == (1, True)
    file.write_text("[]")
    damaged = seesae("export-model", str(file), str(folder))
    assert (damaged.exit_code, "is no edit" in " ".join(damaged.stderr.split())) == (1, True)
    save_edit(edit_of(dictionary, Intervention("add", 3.0, feature=7, special_tokens=True)), file)
    other = tiny_model(tmp_path / "other", seed=1)
    refused = seesae("export-model", str(file), str(folder), "--model", str(other))
    assert (refused.exit_code, "other weights than" in " ".join(refused.stderr.split())) == (1, True)
    assert not folder.exists()
