"""What pages and reports show of the paths of a server."""

from app.paths import without_folder


def test_folders_of_the_server_are_not_shown() -> None:
    assert without_folder("/home/ada/models/small.gguf") == "small.gguf"
    assert without_folder("org/model") == "org/model"
