"""Settings of a site on the test's database, with which exports are compared."""

from pathlib import Path

import pytest

from app.settings import Settings


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path / "home", author="ada")
