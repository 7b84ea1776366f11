"""The benchmark of the first run, in miniature, with the real model and corpus."""

import subprocess
from pathlib import Path

import pytest

from app.bench import first_run
from app.errors import UserError
from app.settings import Settings
from tests.e2e.demo_packages import fetched_packages

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a home that has nothing but the packages."""
    (tmp_path / "cache").mkdir()
    for wheel in (fetched_packages() / "packages").glob("*.whl"):
        (tmp_path / "cache" / wheel.name).symlink_to(wheel)
    return Settings(home=tmp_path, device="cpu")


def test_a_small_demo_is_timed_to_its_first_page_and_probe(settings: Settings) -> None:
    figures = first_run.run(settings, ("--tokens", "8192", "--width", "512"), lambda _line: None)
    assert figures["sae"] == "smollm2-135m-l9-batchtopk-512-t8192"
    stages = figures["stages_s"]
    until_published = sum(stages[name] for name in ("load", "tokenise", "activations", "train", "encode", "publish"))
    assert until_published < figures["feature_page_s"] < sum(stages.values()) + 60
    assert figures["foreseen_s"] == pytest.approx(figures["foreseen_share"] * figures["feature_page_s"], rel=0.01)
    assert 0.1 < figures["foreseen_share"] < 10, "the machine is busy with other tests"
    assert figures["map_s"] == stages["map"]
    assert figures["explained_variance"] > 0.6
    assert 24 < figures["l0"] < 48
    assert 0 < figures["site_s"] < figures["probed_s"]
    assert figures["first_probe_s"] == pytest.approx(figures["probed_s"] - figures["site_s"], abs=0.02)
    assert [path.name for path in settings.home.iterdir()] == ["cache"]


def test_a_demo_that_fails_is_explained(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before, failing = subprocess.Popen, ("bench", "all", "--only", "rockets")
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: before([*command[:3], *failing], **options))
    with pytest.raises(UserError, match="The first run failed: Error: There is no benchmark 'rockets'"):
        first_run.run(settings, (), lambda _line: None)
    assert [path.name for path in settings.home.iterdir()] == ["cache"]
