"""The wheel carries everything: installed outside the checkout, it migrates a database and finds its own files."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        CHECKOUT,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("seesae-*.whl")
    return built


@pytest.fixture(scope="module")
def seesae(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment with the wheel in it.

    The dependencies are the test environment's own, reached by a path file: fetching gigabytes again would prove
    nothing about the wheel. A path file inside that folder, such as the editable install's, is not followed.
    """
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(environment)}))
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--ignore-installed", wheel]
    subprocess.run(command, check=True, capture_output=True)
    return environment / "bin" / "seesae"


def run(seesae: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")}
    environment |= {"SEESAE_HOME": str(home), "PYTHONPATH": ""}
    return subprocess.run(
        [seesae, *arguments], cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_wheel_holds_templates_static_files_and_migrations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("templates", "static", "migrations"):
        for path in (CHECKOUT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"app/{path.relative_to(CHECKOUT)}" in names


def test_installed_wheel_works_outside_the_checkout(seesae: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [seesae.parent / "python", "-c", "import app.paths; print(app.paths.TEMPLATES)"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert CHECKOUT not in Path(where.stdout.strip()).parents

    upgrade = run(seesae, "db", "upgrade", home=tmp_path)
    assert upgrade.returncode == 0, upgrade.stderr

    doctor = run(seesae, "doctor", home=tmp_path)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
