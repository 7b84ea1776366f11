"""seesae runs: what it prints, and how it ends."""

import json

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.cli.run_display import stderr_console


@pytest.fixture(autouse=True)
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)


def seesae(*arguments: str) -> Result:
    stderr_console.cache_clear()
    return CliRunner().invoke(app, arguments)


def test_a_queued_run_is_shown_cancelled_and_tried_again() -> None:
    queued = seesae("demo", "--queue")
    assert "Run 1 is next. Follow it: seesae runs show 1 --follow" in queued.stdout
    assert "No worker is running yet" in queued.stdout
    assert json.loads(seesae("demo", "--queue", "--json").stdout)["run"] == 1
    assert "queued, 1" in seesae("runs").stdout
    (listed,) = json.loads(seesae("runs", "--json").stdout)["runs"]
    assert listed == json.loads(seesae("runs", "show", "1", "--json").stdout)
    assert "Run 1 is cancelled." in seesae("runs", "cancel", "1").stdout
    assert "There are no such runs." in seesae("runs", "list", "--state", "queued").stdout
    again = seesae("runs", "cancel", "1")
    assert again.exit_code == 1
    assert "has ended" in again.stderr
    assert "Run 1 is next." in seesae("runs", "retry", "1").stdout
    assert "queued already" in seesae("runs", "retry", "1").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("show", "7"), 1, "Run 7 does not exist"),
        (("list", "--state", "asleep"), 2, "asleep"),
    ],
)
def test_what_is_not_a_run_is_refused_in_one_line(arguments: tuple[str, ...], code: int, says: str) -> None:
    refused = seesae("runs", *arguments)
    assert refused.exit_code == code
    assert says in refused.stderr
