"""Files that are written whole or not at all, beside other writers."""

from pathlib import Path
from typing import BinaryIO

import pytest

from sae_core.files import exists_partly, expand_home, make_folder, unshared_name, write_atomically


def test_two_writers_of_one_name_share_no_temporary_file(tmp_path: Path) -> None:
    assert len({unshared_name(tmp_path / "shard", "tmp") for _ in range(100)}) == 100


def test_a_temporary_file_that_somebody_deletes_does_not_become_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "shard"

    def write(file: BinaryIO) -> None:
        file.write(b"whole")
        for temporary in tmp_path.iterdir():
            temporary.unlink()

    with pytest.raises(FileNotFoundError):
        write_atomically(path, write)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_leaves_those_of_other_writers_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sequences"
    theirs = unshared_name(folder, "partial")
    theirs.mkdir()
    make_folder(folder, lambda unfinished: unfinished.mkdir())
    assert theirs.is_dir()
    assert set(tmp_path.iterdir()) == {folder, theirs}


def test_a_folder_that_fails_is_not_there_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(unfinished: Path) -> None:
        unfinished.mkdir()
        raise ValueError

    with pytest.raises(ValueError):
        make_folder(tmp_path / "folder", fail)
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_no_user_is_a_path_that_is_not_found() -> None:
    assert expand_home("~/model") == Path.home() / "model"
    assert expand_home("~nosuch/model") == Path("~nosuch/model")
    assert exists_partly("~nosuch/model")  # and not a name on the hub
