"""Commands in a home folder of each test's own, whatever the settings of who runs the tests."""

import os
from pathlib import Path

import pytest

from app.settings import get_settings


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SEESAE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SEESAE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEESAE_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "200")
    get_settings.cache_clear()
