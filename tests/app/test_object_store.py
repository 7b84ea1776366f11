"""Artifacts that two machines share by a bucket of a server that speaks S3."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest

from app.artifacts import Artifacts
from app.errors import UserError
from app.object_store import ObjectStore, StoreAway
from app.settings import Settings
from tests.bucket import connect

FOLDER = "saes/tiny"


@pytest.fixture
def machine(tmp_path: Path, bucket: str) -> Callable[[str], ObjectStore]:
    return lambda name: ObjectStore(bucket, tmp_path / name)


@pytest.fixture
def one(machine: Callable[[str], ObjectStore]) -> ObjectStore:
    return machine("one")


@pytest.fixture
def two(machine: Callable[[str], ObjectStore]) -> ObjectStore:
    return machine("two")


def write(store: ObjectStore, **files: str) -> Path:
    folder = store.root / FOLDER
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def read(store: ObjectStore) -> dict[str, str]:
    """The files of the folder on a machine, but for our record."""
    folder = store.root / FOLDER
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".store.json"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def put(store: ObjectStore, key: str, content: str) -> None:
    fsspec.url_to_fs(store.address)[0].pipe_file(f"{store.address.removeprefix('s3://')}/{key}", content.encode())


def transfers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all files that are transferred from now on."""
    seen: list[str] = []
    ask = ObjectStore._ask

    def noted(self: ObjectStore, method: str, *arguments: Any, **options: Any) -> Any:
        if method in ("get", "put"):
            seen.extend(Path(name).name for name in arguments[method == "put"])
        return ask(self, method, *arguments, **options)

    monkeypatch.setattr(ObjectStore, "_ask", noted)
    return seen


def test_a_machine_sees_what_another_pushed_and_transfers_it_once(
    one: ObjectStore, two: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(one, weights="1", ranges__a="", **{"cfg.json": "{}"})
    one.push(folder)
    seen = transfers(monkeypatch)
    two.pull(two.root / FOLDER)
    assert read(two) == {"weights": "1", "ranges/a": "", "cfg.json": "{}"}
    assert sorted(seen) == ["a", "cfg.json", "weights"]
    for store in (one, two):
        store.pull(store.root / FOLDER)
        store.push(store.root / FOLDER)
    assert len(seen) == 3
    assert one.products() == {FOLDER: 3}
    assert one.size(folder) == 3
    assert one.names(folder) == {"weights", "ranges/a", "cfg.json"}


def test_a_folder_that_nobody_has_is_not_made(one: ObjectStore) -> None:
    one.pull(one.root / FOLDER)
    assert not (one.root / FOLDER).exists()


def test_a_stale_file_of_the_same_size_is_replaced(one: ObjectStore, two: ObjectStore) -> None:
    one.push(write(one, weights="1", gone="1"))
    two.pull(two.root / FOLDER)
    folder = write(one, weights="2")
    (folder / "gone").unlink()
    one.push(folder)
    os.utime(two.root / FOLDER / "weights")  # newer than the one in the store
    two.pull(two.root / FOLDER)
    assert read(two) == {"weights": "2"}


def test_a_folder_that_was_never_pulled_replaces_the_one_in_the_store(one: ObjectStore, two: ObjectStore) -> None:
    one.push(write(one, weights="1", old="1"))
    two.push(write(two, weights="2"))  # it never saw the first
    one.pull(one.root / FOLDER)
    assert read(one) == {"weights": "2"}


def test_work_that_was_never_pushed_stays_and_the_same_file_of_another_goes_before_it(
    one: ObjectStore, two: ObjectStore
) -> None:
    one.push(write(one, first="1", second="1"))
    two.pull(two.root / FOLDER)
    write(two, second="mine", third="mine")  # on a machine that was killed before it pushed
    two.pull(two.root / FOLDER)
    assert read(two) == {"first": "1", "second": "mine", "third": "mine"}
    one.push(write(one, second="2"))
    two.pull(two.root / FOLDER)
    assert read(two) == {"first": "1", "second": "2", "third": "mine"}
    two.push(two.root / FOLDER)
    one.pull(one.root / FOLDER)
    assert read(one) == read(two)


def test_what_others_pushed_meanwhile_stays_and_what_is_removed_here_goes(one: ObjectStore, two: ObjectStore) -> None:
    one.push(write(one, manifest="1", temporary="1"))
    write(two, shard="2")
    two.push_files([two.root / FOLDER / "shard"])
    assert one.has([one.root / FOLDER / "shard", one.root / FOLDER / "manifest"])
    assert not one.has([one.root / FOLDER / "shard", one.root / FOLDER / "none"])
    (one.root / FOLDER / "temporary").unlink()
    one.push(one.root / FOLDER)
    assert one.names(one.root / FOLDER) == {"manifest", "shard"}


def test_a_file_that_is_pushed_alone_is_not_transferred_again(
    one: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(one, shard="1")
    one.push_files([folder / "shard"])
    seen = transfers(monkeypatch)
    one.pull(folder)
    one.push(folder)
    assert seen == []


def test_a_folder_that_was_removed_here_is_removed_there_and_only_it(one: ObjectStore, two: ObjectStore) -> None:
    one.push(write(one, weights="1"))
    put(one, "saes/tiny-2/weights", "2")
    two.push(two.root / FOLDER)
    assert one.products() == {"saes/tiny-2": 1}
    one.pull(one.root / FOLDER)
    assert read(one) == {"weights": "1"}  # as the last that has it


@pytest.mark.parametrize(
    "key", ["../evil", "../../../evil", "/evil", ".store.json", ".hidden", "a/../evil", "a\\b", "./x"]
)
def test_names_that_no_product_has_are_left_alone(one: ObjectStore, tmp_path: Path, key: str) -> None:
    put(one, f"{FOLDER}/{key}", "evil")
    put(one, f"{FOLDER}/weights", "1")
    one.pull(one.root / FOLDER)
    assert read(one) == {"weights": "1"}
    assert [path.name for path in tmp_path.rglob("*") if path.name in ("evil", "x", ".hidden")] == []
    one.push(one.root / FOLDER)


def test_a_pull_that_is_killed_leaves_no_half_file_and_goes_on(
    one: ObjectStore, two: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.push(write(one, **{f"shard-{number:02}": "x" * 1000 for number in range(40)}))
    killed = f"""
import os, signal
from pathlib import Path
from app.object_store import ObjectStore
ask = ObjectStore._ask
def dies(self, method, *arguments, **options):
    if method == "get" and "shard-16" in arguments[0][0]:
        for path in arguments[1]:
            Path(path).write_bytes(b"x" * 500)
        os.kill(os.getpid(), signal.SIGKILL)
    return ask(self, method, *arguments, **options)
ObjectStore._ask = dies
store = ObjectStore({two.address!r}, Path({str(two.root)!r}))
store.pull(store.root / {FOLDER!r})
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    there = {name: content for name, content in read(two).items() if not name.startswith(".")}
    assert there == {f"shard-{number:02}": "x" * 1000 for number in range(16)}
    two.pull(two.root / FOLDER)
    assert {name: content for name, content in read(two).items() if not name.startswith(".")} == read(one)
    two.push(two.root / FOLDER)
    assert one.names(one.root / FOLDER) == set(read(one))  # and none of the half ones


def test_a_push_that_is_killed_leaves_whole_files_without_the_manifest(
    one: ObjectStore, two: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(one, **{"manifest.json": "{}"}, **{f"shard-{number:02}": "x" for number in range(40)})
    ask = ObjectStore._ask

    def dies(self: ObjectStore, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "put" and "manifest.json" in arguments[1][0]:
            raise KeyboardInterrupt
        return ask(self, method, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ObjectStore, "_ask", dies)
        one.push(folder)
    two.pull(two.root / FOLDER)
    assert read(two) == {f"shard-{number:02}": "x" for number in range(40)}
    one.push(folder)
    two.pull(two.root / FOLDER)
    assert read(two) == read(one)


def test_a_new_folder_that_was_half_pushed_still_replaces_all_of_the_former(
    one: ObjectStore, two: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.push(write(two, old="1"))
    folder = write(one, weights="2")
    ask = ObjectStore._ask

    def away(self: ObjectStore, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "rm":
            raise StoreAway("It does not answer.")
        return ask(self, method, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(StoreAway):
        patched.setattr(ObjectStore, "_ask", away)
        one.push(folder)
    one.push(folder)
    assert one.names(folder) == {"weights"}


def test_a_file_that_changes_while_it_is_read_is_read_again(
    one: ObjectStore, two: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.push(write(one, weights="1"))
    ask, left = ObjectStore._ask, ["2", "3"]

    def changing(self: ObjectStore, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "get" and left:
            put(one, f"{FOLDER}/weights", left.pop(0))
        return ask(self, method, *arguments, **options)

    monkeypatch.setattr(ObjectStore, "_ask", changing)
    two.pull(two.root / FOLDER)
    assert read(two) == {"weights": "3"}
    left[:] = map(str, range(100))
    put(one, f"{FOLDER}/weights", "x")
    with pytest.raises(StoreAway, match="changes while it is read"):
        two.pull(two.root / FOLDER)


def test_work_that_has_to_stop_stops_between_files(one: ObjectStore) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    folder = write(one, weights="1")
    with pytest.raises(KeyboardInterrupt):
        one.push(folder, stop)
    one.push(folder)
    folder.joinpath("weights").unlink()
    with pytest.raises(KeyboardInterrupt):
        one.pull(folder, stop)


def test_a_store_that_can_be_used_is_left_as_it_was(one: ObjectStore) -> None:
    one.check()
    assert fsspec.url_to_fs(one.address)[0].find(one.address) == []


@pytest.mark.parametrize("address", ["s3://no-such-bucket-here/x", "s3://Bad_Bucket/x"])
def test_a_wrong_bucket_is_said_in_one_sentence(one: ObjectStore, address: str) -> None:
    with pytest.raises(UserError, match=r"is not there \(.*\)\. Make the bucket first\.") as caught:
        ObjectStore(address, one.root).check()
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, StoreAway)


def test_keys_that_are_missing_or_refused_are_said_in_one_sentence(
    one: ObjectStore,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    httpx.post(f"{s3_server}/moto-api/reset-auth", content="0").raise_for_status()
    try:
        with pytest.raises(UserError, match=r"refuses this machine .*AWS Access Key Id you provided does not exist"):
            one.check()
    finally:
        httpx.post(f"{s3_server}/moto-api/reset-auth", content="inf").raise_for_status()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UserError, match=r"refuses this machine .*redentials"):
        one.check()


def test_a_store_that_does_not_answer_may_be_back(one: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    with pytest.raises(StoreAway, match="does not answer"):
        one.pull(one.root / FOLDER)
    folder = write(one, weights="1")
    assert Artifacts(one.root, one).bytes_of([FOLDER]) is None
    with pytest.raises(StoreAway):
        one.push(folder)
    assert read(one) == {"weights": "1"}


@pytest.mark.parametrize("address", ["gs://bucket/x", "nosuch://bucket/x"])
def test_a_package_that_is_missing_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match=r"SEESAE_ARTIFACTS=.* cannot be used .* Install") as caught:
        ObjectStore(address, tmp_path).check()
    assert "\n" not in str(caught.value)


def test_settings_give_each_store_a_folder_of_its_own(tmp_path: Path, bucket: str) -> None:
    mine, other = (Artifacts.of(Settings(home=tmp_path, artifacts=address)) for address in (bucket, f"{bucket}2"))
    assert mine.store == ObjectStore(bucket, mine.root)
    assert mine.root != other.root
    assert mine.root.parent == tmp_path
    assert Artifacts.of(Settings(home=tmp_path, artifacts=tmp_path)) == Artifacts(tmp_path)


def test_sizes_are_those_of_the_store(one: ObjectStore, two: ObjectStore) -> None:
    one.push(write(one, weights="12345"))
    assert Artifacts(two.root, two).bytes_of([FOLDER]) == 5
    assert Artifacts(two.root, two).bytes_of(["saes/none"]) == 0
