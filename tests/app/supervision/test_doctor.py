"""Checks of the files that SAEs name."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import Settings
from app.supervision import doctor
from app.supervision.doctor import Finding, examine
from tests.app.inference.dictionaries import SLUG, Dictionary, make_dictionary, publish
from tests.vllm_stand_in import install


@pytest.fixture
async def dictionary(tmp_path: Path, engine: AsyncEngine) -> Dictionary:
    """An SAE with weights, an index with its activations, and a model."""
    dictionary = make_dictionary(tmp_path / "home")
    await publish(engine, dictionary, with_store=True)
    return dictionary


def of_saes(settings: Settings) -> Finding:
    (finding,) = [finding for finding in examine(settings) if finding.subject == "SAEs"]
    return finding


def test_missing_files_of_an_sae_are_named_with_what_to_do(dictionary: Dictionary, database_url: str) -> None:
    settings = dictionary.settings.model_copy(update={"database_url": database_url})
    assert of_saes(settings) == Finding("SAEs", "ok", "1, with all their files")

    shutil.rmtree(settings.home / "model")
    found = of_saes(settings)
    assert found.level == "warn"
    assert f"The model of {SLUG} is not at" in found.text

    next(settings.artifacts.glob("indexes/*/shard-*")).unlink()
    found = of_saes(settings)
    assert found.level == "warn"
    assert f"seesae index {SLUG}" in found.text

    (settings.artifacts / "saes" / SLUG / "sae_weights.safetensors").unlink()
    found = of_saes(settings)
    assert found.level == "fail"
    assert "SEESAE_ARTIFACTS" in found.text


@pytest.mark.parametrize(
    ("home", "artifacts", "named"),
    [
        ("a file", None, "SEESAE_HOME"),
        ("home", "/proc/nosuch", "SEESAE_ARTIFACTS"),
        ("/proc/home", None, "SEESAE_HOME"),
    ],
)
def test_folders_that_cannot_be_used_are_explained(
    home: str, artifacts: str | None, named: str, tmp_path: Path, database_url: str
) -> None:
    (tmp_path / "a file").touch()
    others = {} if artifacts is None else {"artifacts": artifacts}
    settings = Settings(home=tmp_path / home, database_url=database_url, device="cpu", **others)
    found = {finding.subject: finding for finding in examine(settings)}
    assert found["Home"].level == "fail"
    assert f"Set {named} to" in found["Home"].text
    assert found["Disk"].level == "warn"
    assert found["Database"].level == "ok"  # what follows is checked all the same


def test_a_check_that_fails_itself_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_settings: Settings) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("app.supervision.doctor._CHECKS", {"Disk": broken, "Files": doctor._files})
    first, second = examine(Settings(home=tmp_path))
    assert first.level == "fail" and "Permission denied: 'somewhere'" in first.text
    assert second.level == "ok"


def test_an_unreachable_database_is_one_failure(tmp_path: Path) -> None:
    findings = list(examine(Settings(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:9/none", device="cpu")))
    assert [finding.subject for finding in findings if finding.level == "fail"] == ["Database"]


def test_the_back_end_is_named_with_what_it_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {name: Settings(home=tmp_path, backend=name) for name in ("eager", "vllm")}

    def found(backend: str) -> Finding:
        (finding,) = [finding for finding in examine(settings[backend]) if finding.subject == "Back end"]
        return finding

    monkeypatch.setattr(doctor, "_CHECKS", {"Back end": doctor._CHECKS["Back end"]})
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert found("eager") == Finding(
        "Back end", "ok", "eager: the inference process runs models itself; vLLM is not installed, and not needed"
    )
    assert found("vllm").level == "fail"
    assert "needs the package vllm, which is not installed here" in found("vllm").text

    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "vllm", None)  # an import of it fails
    assert found("eager").text.endswith("vLLM is installed too")
    assert found("vllm").level == "fail"
    assert "vLLM cannot be imported" in found("vllm").text

    install(monkeypatch)
    expected = "PyTorch finds no GPU here" if not torch.cuda.is_available() else torch.cuda.get_device_name(0)
    assert found("vllm").text.startswith("vLLM 0.0-stand-in")
    assert expected in found("vllm").text
