"""The command line: statuses, messages, and what goes to which stream."""

import errno
import fcntl
import json
import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path

import click
import psycopg
import pytest
import typer
from rich.emoji import Emoji
from typer.testing import CliRunner, Result

from app.cli import app
from app.cli.run_display import stderr_console
from app.database_url import libpq_url
from tests.factories import Synthetic
from tests.tiny import CORPUS_FILE, tiny_model

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny-llama")


def seesae(*arguments: str) -> Result:
    stderr_console.cache_clear()  # it keeps its stream, and the runner makes a new one for each command
    return RUNNER.invoke(app, arguments)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


COMMANDS = ("demo", "serve", "web", "worker", "inference", "train", "index", "evaluate", "db", "doctor")


def test_help_names_every_command_and_where_to_start() -> None:
    shown = seesae("--help")
    assert shown.exit_code == 0
    assert "seesae demo" in shown.stdout
    for command in COMMANDS:
        assert command in shown.stdout


@pytest.mark.parametrize("command", ["demo", "serve", "inference", "train", "index", "evaluate"])
def test_help_of_a_command_has_an_example(command: str) -> None:
    shown = seesae(command, "--help")
    assert shown.exit_code == 0
    assert re.search(rf"Examples?:\s+seesae {command}", shown.stdout)


def test_no_help_has_a_word_that_is_shown_as_a_picture() -> None:
    waiting: list[tuple[str, click.Command]] = [("seesae", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {part}", below) for part, below in getattr(command, "commands", {}).items()]
        for said in (command.help, *(getattr(param, "help", None) for param in command.params)):
            assert said is None or Emoji.replace(said) == said, name


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys; from app.cli import app; "
        "from typer.testing import CliRunner; CliRunner().invoke(app, ['--help']); "
        "print([name for name in ('torch', 'transformers', 'sqlalchemy', 'fastapi', 'plotly') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_following_a_run_does_not_import_torch() -> None:
    code = (
        "import sys, app.supervision.supervisor, app.cli.local_runs, app.pipeline, app.cli.run_display; "
        "print('torch' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("demo", "--tokens", "12"),
        ("demo", "--layer", "30"),
        ("serve", "--port", "70000"),
        ("serve", "--device", "foo"),
        ("worker", "--device", "cuda:x"),
        ("evaluate", "some-sae", "--device", "foo"),
        ("index",),
        ("compare", "only-one"),
        ("train", "--hook", "resid_post.1", "--corpus", "texts.txt"),
        ("train", "--model", "m", "--hook", "resid_post.1", "--corpus", "c", "--width", "0"),
        ("train", "--model", "m", "--hook", "resid_post.1", "--corpus", "c", "--name", "Not a slug!"),
        ("train", "--config", "no-such-file.toml"),
        ("export", "some-sae", "~nosuch/folder", "--format", "saelens"),
    ],
)
def test_bad_usage_exits_with_2_before_anything_is_done(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert seesae(*arguments).exit_code == 2
    assert not (tmp_path / "home").exists()


def test_bad_usage_names_the_option() -> None:
    assert "--model" in plain(seesae("train", "--hook", "resid_post.1", "--corpus", "texts.txt").stderr)


def test_an_invalid_setting_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_PORT", "eight thousand")
    result = seesae("doctor")
    assert result.exit_code == 1
    assert "SEESAE_PORT" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("process", ["web", "worker", "inference"])
def test_a_single_process_reports_that_it_needs_a_database(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_INFERENCE_SECRET", "secret")
    result = seesae(process)
    assert result.exit_code == 1
    assert "SEESAE_DATABASE_URL" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_unreachable_database_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", "postgresql://somebody:hidden@127.0.0.1:9/none")
    result = seesae("db", "upgrade")
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.stderr
    assert "hidden" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("db", "upgrade"),
        ("doctor",),
        ("demo", "--no-serve"),
        ("train", "--model", "m", "--hook", "resid_post.1", "--corpus", str(CORPUS_FILE), "--width", "64"),
    ],
)
def test_a_file_system_without_locks_is_named_in_one_line(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    result = seesae(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if "locked" in line]
    assert "SEESAE_HOME to a folder on a local disk" in line


@pytest.mark.slow
def test_train_index_and_evaluate_end_with_one_json_object(
    database_url: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    config = tmp_path / "train.toml"
    config.write_text(
        f'model = "{model_folder}"\nhook = "resid_post.1"\nwidth = 32\nk = 4\nsamples = 4000\nlength = 32\n'
    )

    trained = seesae("train", "--config", str(config), "--corpus", str(CORPUS_FILE), "--width", "64", "--json")
    assert trained.exit_code == 0, trained.stderr
    (line,) = trained.stdout.splitlines()
    result = json.loads(line)
    assert result["sae"] == "tiny-llama-l1-batchtopk-64"  # the option won over the file
    assert list(result["seconds"]) == ["fetch", "load", "tokenise", "activations", "train", "evaluate"]
    assert "Train the SAE: done in" in trained.stderr

    indexed = seesae("index", result["sae"], "--corpus", str(CORPUS_FILE), "--length", "32", "--json")
    assert indexed.exit_code == 0, indexed.stderr
    assert json.loads(indexed.stdout)["features"] == 64

    evaluated = seesae("evaluate", result["sae"], "--corpus", str(CORPUS_FILE), "--length", "32")
    assert evaluated.exit_code == 0, evaluated.stderr
    assert "explained variance" in evaluated.stdout

    narrow = seesae("train", "--config", str(config), "--corpus", str(CORPUS_FILE), "--json")
    other = json.loads(narrow.stdout)["sae"]
    compared = seesae("compare", result["sae"], other)
    assert compared.exit_code == 0, compared.stderr
    assert f"Index {other} on the text" in compared.stdout.splitlines()[-1]  # which has no index yet
    again = seesae("compare", result["sae"], other, "--json")
    assert json.loads(again.stdout)["matched_by_activity"] == 0

    unknown = seesae("index", "no-such-sae", "--corpus", str(CORPUS_FILE))
    assert unknown.exit_code == 1
    said = f"Error: There is no SAE “no-such-sae”. There are: {other}, {result['sae']}."
    assert unknown.stderr.splitlines()[-1] == said
    assert unknown.stdout == ""


def test_a_backup_restores_what_was_there(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    saved = tmp_path / "saved.dump"
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        insert = "INSERT INTO corpus (slug, title, source, licence, attribution, sha256, documents) "
        connection.execute(insert + "VALUES ('kept', 'Kept', 's', '', '', '0', 1)")
        assert seesae("db", "backup", str(saved)).exit_code == 0
        connection.execute("DELETE FROM corpus")
    assert seesae("db", "restore", str(saved)).exit_code == 1  # it replaces everything
    restored = seesae("db", "restore", str(saved), "--yes")
    assert restored.exit_code == 0, restored.stderr
    with psycopg.connect(libpq_url(database_url)) as connection:
        assert connection.execute("SELECT slug FROM corpus").fetchall() == [("kept",)]


def test_a_backup_that_is_killed_leaves_the_earlier_one(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    saved = tmp_path / "backups" / "saved.dump"
    saved.parent.mkdir()
    assert seesae("db", "backup", str(saved)).exit_code == 0
    saved.chmod(0o600)
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # pg_dump dies in the middle
    try:
        result = seesae("db", "backup", str(saved))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved.dump"]
    assert seesae("db", "backup", str(saved)).exit_code == 0
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


@pytest.mark.parametrize(("file", "status"), [("missing/saved.dump", 1), (".", 2), ("/dev/full", 1)])
def test_a_backup_that_cannot_be_written_is_one_line(
    file: str, status: int, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    result = seesae("db", "backup", str(tmp_path / file))
    assert result.exit_code == status
    assert status == 2 or len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "missing").exists()


def test_a_backup_of_a_published_index_replaces_what_came_later(
    database_url: str, made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    saved = tmp_path / "saved.dump"
    counts = "SELECT (SELECT count(*) FROM feature), (SELECT count(*) FROM example_band), (SELECT count(*) FROM sae)"
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        before = connection.execute(counts).fetchone()
        assert before is not None and before[0] == made.sae.d_sae
        assert seesae("db", "backup", str(saved)).exit_code == 0
        connection.execute("CREATE TABLE of_a_newer_version (sae_id bigint REFERENCES sae)")
        connection.execute("UPDATE feature SET density = 0")
        restored = seesae("db", "restore", str(saved), "--yes")
        assert restored.exit_code == 0, restored.stderr
        assert connection.execute(counts).fetchone() == before
        assert connection.execute("SELECT max(density) > 0 FROM feature").fetchone() == (True,)
        assert connection.execute("SELECT to_regclass('of_a_newer_version')").fetchone() == (None,)
    assert seesae("db", "upgrade").stdout == "The database was up to date.\n"


def test_a_backup_that_is_cut_off_changes_nothing(
    database_url: str, made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    saved = tmp_path / "saved.dump"
    assert seesae("db", "backup", str(saved)).exit_code == 0
    saved.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    result = seesae("db", "restore", str(saved), "--yes")
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    with psycopg.connect(libpq_url(database_url)) as connection:
        assert connection.execute("SELECT count(*) FROM sae").fetchone() == (1,)


def test_restoring_an_invalid_backup_changes_nothing(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    wrong = tmp_path / "wrong.dump"
    wrong.write_text("no backup")
    result = seesae("db", "restore", str(wrong), "--yes")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert seesae("db", "upgrade").stdout == "The database was up to date.\n"


def test_doctor_checks_everything(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    result = seesae("doctor", "--json")
    assert "\x1b" not in result.stderr  # no colours where it is not a terminal
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ok"]
    levels = {finding["subject"]: finding["level"] for finding in report["findings"]}
    assert levels["PyTorch"] == levels["Database"] == levels["Home"] == "ok"


def test_doctor_fails_if_the_database_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", "postgresql://somebody@127.0.0.1:9/none")
    result = seesae("doctor", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [finding["subject"] for finding in report["findings"] if finding["level"] == "fail"] == ["Database"]
