"""The benchmark of the first run where the demo fails; `tests/e2e/test_demo.py` looks at what it makes and measures."""

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


def test_a_demo_that_fails_is_explained(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before, failing = subprocess.Popen, ("bench", "all", "--only", "rockets")
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: before([*command[:3], *failing], **options))
    with pytest.raises(UserError, match="The first run failed: Error: There is no benchmark 'rockets'"):
        first_run.run(settings, (), lambda _line: None)
    assert [path.name for path in settings.home.iterdir()] == ["cache"]
