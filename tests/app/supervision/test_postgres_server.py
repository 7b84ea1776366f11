"""The command line of the embedded server, for any path."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.database_url import connection_params, url_of
from app.errors import UserError
from app.supervision.postgres_server import can_hold_socket, server_command, socket_folder

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=60)


@given(name=NAMES)
def test_a_path_is_one_argument_of_the_command_and_one_host_of_the_url(name: str) -> None:
    data = Path("/home") / name / "postgres"
    command = server_command(data, data)
    assert command[1:3] == ["-D", str(data)]
    sockets = next(part for part in command if part.startswith("unix_socket_directories="))
    assert sockets.removeprefix("unix_socket_directories=")[1:-1].replace('""', '"') == str(data)
    assert connection_params(url_of({"host": str(data)}))["host"] == str(data)


@given(name=NAMES)
def test_a_folder_for_the_socket_can_be_named(name: str) -> None:
    data = Path("/home") / name / "postgres"
    folder = socket_folder(data, os.geteuid())
    assert can_hold_socket(folder)
    if folder != data:
        folder.rmdir()


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    data = Path("/home") / (120 * "x")
    folder = socket_folder(data, os.geteuid())
    folder.rmdir()
    folder.symlink_to(tmp_path)  # as somebody who knows the home's path could
    try:
        with pytest.raises(UserError, match="not ours"):
            socket_folder(data, os.geteuid())
    finally:
        folder.unlink()
