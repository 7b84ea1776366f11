"""The docs are held to the code."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from app.main import create_app
from app.pipeline.train import TrainParams
from app.pipeline.training_plans import training_configs
from app.settings import PREFIX, Settings
from sae_core.checkpoints import save_sae
from sae_core.saes import ARCHITECTURES, SAEConfig
from tests.app.inference.dictionaries import random_sae
from tests.tiny import CORPUS_FILE, tiny_model

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def test_settings_page_lists_every_setting() -> None:
    page = (CHECKOUT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.+) \|$", page, flags=re.MULTILINE))
    assert rows == {PREFIX + name.upper(): field.description for name, field in Settings.model_fields.items()}


def test_links_point_to_existing_files() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(
            r"\]\(([^)#]+)(?:#[^)]*)?\)|<img[^>]* src=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        ):
            link = target[0] or target[1]
            if not link.startswith(("http://", "https://")) and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_api_page_lists_every_route() -> None:
    page = (CHECKOUT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([A-Z]+ /(?:api/)?v1/\S+)` \|", page, flags=re.MULTILINE)
    paths = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/none")).openapi()["paths"]
    assert sorted(listed) == sorted(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)


def test_the_tour_names_no_feature_by_its_number() -> None:
    tour = (CHECKOUT / "docs" / "tour.md").read_text(encoding="utf-8")
    assert re.findall(r"features?[ /]\d+", tour, flags=re.IGNORECASE) == []  # they differ by machine


@pytest.mark.slow
def test_code_of_the_library_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code, with a tiny model and a small corpus instead of the large ones."""
    page = (CHECKOUT / "docs" / "library.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, flags=re.S | re.M))
    small = {
        '"HuggingFaceTB/SmolLM2-135M"': repr(str(tiny_model(tmp_path / "model"))),
        '"texts.jsonl"': repr(str(CORPUS_FILE)),
        "resid_post.9": "resid_post.2",
        "d_sae=4096, k=32, samples=1_000_000": "d_sae=64, k=4, samples=8_000, batch_size=256",
    }
    for large, small_one in small.items():
        assert large in code
        code = code.replace(large, small_one)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "docs/library.md", "exec"), names)
    assert names["error"].mean() < 1  # type: ignore[attr-defined]
    assert (tmp_path / "work" / "sae" / "cfg.json").exists()


def test_library_page_trains_in_at_most_fifteen_lines() -> None:
    page = (CHECKOUT / "docs" / "library.md").read_text(encoding="utf-8")
    first = re.search(r"^```python\n(.*?)^```", page, flags=re.S | re.M)
    assert first is not None
    assert len(first[1].splitlines()) <= 15


def test_config_file_of_the_training_page_is_valid() -> None:
    page = (CHECKOUT / "docs" / "training.md").read_text(encoding="utf-8")
    written = re.search(r"^```toml\n(.*?)^```", page, flags=re.S | re.M)
    assert written is not None
    params = TrainParams.model_validate(tomllib.loads(written[1]))
    assert [config.d_sae for config in training_configs(params, 1000)] == [4096, 8192]


def test_training_page_lists_every_architecture_and_its_options() -> None:
    page = (CHECKOUT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`[^|]*\|.*\| ([^|]*) \|$", page, flags=re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", options)) for name, options in rows}
    common = {entry.name for entry in fields(SAEConfig)} | {"k"}
    assert told == {name: {entry.name for entry in fields(sae.Config)} - common for name, sae in ARCHITECTURES.items()}


def test_code_of_the_debugging_page_runs(tmp_path: Path) -> None:
    """Its code, with a tiny model and a small SAE instead of the demo's."""
    page = (CHECKOUT / "docs" / "debugging.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, flags=re.S | re.M)
    source = tiny_model(tmp_path / "model")
    save_sae(random_sae(32), tmp_path / "sae", {"hook_name": "blocks.2.hook_resid_post"})
    code = code.replace('"MODEL"', repr(str(source))).replace('"SAE"', repr(str(tmp_path / "sae")))
    code = re.sub(r"FEATURES = .*", "FEATURES = (1, 2)", code).replace("resid_post.9", "resid_post.2")
    exec(code, {})
