"""Options of runs: what a config file may say, and how a mistake in either is answered."""

from pathlib import Path

import pytest

from app.cli.run_options import _with_absolute_paths, name_options
from app.pipeline.import_sae import ImportParams
from tests.app.cli.test_cli import plain, seesae

WHAT = ("--model", "m", "--hook", "resid_post.1", "--corpus", "c")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "=1"), "An option needs a name"),
        (("--set", "l1_coefficient=some"), "'l1_coefficient=some' is not NAME=VALUE with a number."),
        (("--set", "l1_coefficient=nan"), "l1_coefficient"),
        (("--lr", "inf"), "--lr"),
        (("--width", "4,4"), "--width: 4 is given twice."),
        (("--width", "1"), "--width: Input should be greater than or equal to 2"),
        (("--width", "9" * 30), "--width"),
        (("--samples", "9" * 30), "--samples: This number is too large."),
        (("--track", "elsewhere"), "--track: Input should be"),
        (("--model", ""), "--model"),
        (("--corpus", ""), "--corpus"),
        (("--model", "~nobody-of-this-name/model"), "cannot be found"),
        (("--corpus", "c" * 300), "cannot be found: File name too long"),
    ],
)
def test_a_wrong_option_is_named_in_plain_words(arguments: tuple[str, ...], words: str) -> None:
    result = seesae("train", *WHAT, *arguments)
    assert result.exit_code == 2
    assert words in sentence(result.stderr)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("options = 5", "--set: Give the options by name."),
        ('options = "l1_coefficient=1"', "--set: Give the options by name."),
        ('options = {l1_coefficient = "some"}', "--set: l1_coefficient: Input should be a valid number"),
        ("batch-size = 0", "--batch-size: Input should be greater than or equal to 1"),
        ("set = {l1-coefficient = nan}", "--set: l1_coefficient: Input should be a finite number"),
        ("\ufeffbatch-size = 0", "--batch-size: Input should be greater than or equal to 1"),
        ("width = " + "[" * 100_000, "cannot be read"),
        ('modle = "m"', "gives 'modle', which this command does not take."),
    ],
)
def test_a_config_names_options_as_the_command_does(content: str, words: str, tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text(content, encoding="utf-8")
    result = seesae("train", *WHAT, "--config", str(config))
    assert result.exit_code == 2
    assert words in sentence(result.stderr)


def test_a_rank_that_is_not_a_number_is_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "first")
    result = seesae("train", *WHAT)
    assert result.exit_code == 1
    assert "RANK and WORLD_SIZE must be numbers" in sentence(result.stderr)


@pytest.mark.parametrize("saes", [("a", "b", "a"), ("a,b", "a")])
def test_several_saes_are_arguments_or_one_with_commas(saes: tuple[str, ...]) -> None:
    result = seesae("index", *saes, "--corpus", "c")
    assert result.exit_code == 2
    assert "SAE: a is given twice." in sentence(result.stderr)


def sentence(output: str) -> str:
    """Join the lines of an error's box."""
    return " ".join(plain(output).replace("│", " ").split())


def test_a_missing_folder_of_a_local_repository_is_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {"source": "run/layers.10", "model": "run/model"}
    absolute = _with_absolute_paths(ImportParams, options)
    assert absolute == {"source": str(tmp_path / "run/layers.10"), "model": "run/model"}  # which may be on the hub
    for source in ("org/repo/layers.10", "hf:run/layers.10"):
        assert _with_absolute_paths(ImportParams, {"source": source}) == {"source": source}


def test_a_message_names_options_on_the_command_line() -> None:
    text = "Give another `model_name` or `stream`; `trust_remote_code`, `sae` and `python -m pip` are no options."
    expected = text.replace("`model_name`", "--model-name").replace("`stream`", "--stream")
    assert name_options(text) == expected


def test_a_refused_run_names_the_option(tmp_path: Path) -> None:
    export = tmp_path / "export"
    export.mkdir()
    result = seesae("import", str(export), "--format", "neuronpedia", "--activation-scale", "2")
    assert result.exit_code == 2
    assert "Leave --activation-scale out" in sentence(result.stderr)
