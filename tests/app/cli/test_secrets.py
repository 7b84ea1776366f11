"""No command shows a secret: neither on a stream nor in a log, whatever the database's URL looks like."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import typer.main
from typer.testing import CliRunner

from app.cli import app
from app.cli.run_display import stderr_console
from app.settings import get_settings

pytestmark = pytest.mark.slow

PASSWORD = "aaaa1@bbbb2:cccc3/dddd4?eeee5#ffff6%41gggg7 hhhh8'iiii9\"jjjj0üüüü"
PARTS = re.findall(r"\w{4,}", PASSWORD)
NOWHERE = "127.0.0.1:9/none"
ESCAPED = f"postgresql://ada:{quote(PASSWORD, safe='')}@{NOWHERE}"
URLS = (
    ESCAPED,
    f"postgresql://ada:{PASSWORD}@{NOWHERE}",
    *(f"postgresql://ada:aaaa1{sign}bbbb2@{NOWHERE}" for sign in "@:/?#% '\"ü"),
    "postgresql://ada:aaaa1/none",  # the @ and the host are missing
    f"postgresql://{NOWHERE}?password={quote(PASSWORD, safe='')}",
    f"mysql://ada:aaaa1@{NOWHERE}",
)
SERVERS = {"web", "worker", "inference"}
"""Commands that keep trying to reach the database."""
WITHOUT_DATABASE = {"bench train", "bench index", "bench probe", "bench generate", "bench first-run", "bench all"}
"""They measure for minutes, or read files alone."""
ARGUMENTS = {
    "train": "--model made-up --hook resid_post.1 --corpus FILE",
    "index": "made-up --corpus FILE",
    "evaluate": "made-up --corpus FILE",
    "compare": "made-up other",
    "effects": "made-up --corpus FILE",
    "measure-edit": "made-up",
    "audit": "made-up --on crows-pairs",
    "read-texts": "made-up moods",
    "compare-texts": "made-up moods:happy moods:sad",
    "suggest": "made-up",
    "test-labels": "made-up",
    "export-model": "made-up FOLDER",
    "textset add": "moods FILE",
    "textset show": "moods",
    "textset delete": "moods --yes",
    "monitor add": "made-up toxic-text",
    "monitor scan": "made-up --textset moods",
    "monitor show": "made-up",
    "monitor check": "made-up --text words",
    "monitor alerts": "made-up",
    "monitor delete": "made-up --yes",
    "import-labels": "FILE --sae made-up",
    "probe": "made-up --text words",
    "delete": "sae made-up --yes",
    "runs show": "1",
    "runs cancel": "1",
    "runs retry": "1",
    "import": "made-up/made-up",
    "export": "made-up FOLDER --format jsonl",
    "user add": "ada",
    "user role": "ada viewer",
    "user disable": "ada",
    "user enable": "ada",
    "user link": "ada",
    "db backup": "FOLDER",
    "db restore": "FILE --yes",
    "demo": "--no-serve",
}


def commands() -> Iterator[str]:
    """All commands of the command line."""

    def below(command: Any, name: str) -> Iterator[str]:
        for part, inner in getattr(command, "commands", {}).items():
            yield from below(inner, f"{name} {part}".strip())
        if not hasattr(command, "commands"):
            yield name

    return below(typer.main.get_command(app), "")


@pytest.mark.parametrize("name", [name for name in commands() if name not in SERVERS | WITHOUT_DATABASE])
def test_no_command_shows_a_part_of_a_password(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "texts.txt"
    file.write_text('{"feature": 1, "author": "a", "explanation": "b"}' if name == "import-labels" else "text")
    arguments = ARGUMENTS.get(name, "").replace("FILE", str(file)).replace("FOLDER", str(tmp_path / "new"))
    for url in URLS:
        monkeypatch.setenv("SEESAE_DATABASE_URL", url)
        get_settings.cache_clear()
        stderr_console.cache_clear()
        result = CliRunner().invoke(app, [*name.split(), *arguments.split()])
        assert result.exit_code == 1, (url, result.output)
        assert isinstance(result.exception, SystemExit), result.exception
        assert "SEESAE_DATABASE_URL" in result.output
        assert not shown(result.output, tmp_path / "home"), url


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_no_process_logs_a_part_of_a_password_or_its_secret(name: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SEESAE_DATABASE_URL": ESCAPED,
        "SEESAE_INFERENCE_SECRET": "kkkk1lllll",
        "SEESAE_PORT": "0",
    }
    log = tmp_path / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "app.cli", name], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout
        try:
            text = ""
            if name != "worker":
                address = process.stdout.readline()
                url = address.split()[-1]
                path = "/readyz" if name == "web" else "/examples"
                method = "GET" if name == "web" else "POST"
                body = {"sae": "x", "feature": 0, "low": 0, "high": 1, "limit": 1}
                header = {"x-seesae-secret": "kkkk1lllll"}
                answer = httpx.request(method, url + path, json=body, headers=header, timeout=60)
                text = address + answer.text
        finally:
            process.terminate()
            text += process.communicate(timeout=60)[0] + log.read_text()
    assert not shown(text, tmp_path)
    assert "Traceback" not in text


def shown(text: str, logs: Path) -> list[str]:
    """The parts of the secrets that text or a log shows."""
    text += "".join(path.read_text(errors="replace") for path in logs.rglob("*.log"))
    return [part for part in [*PARTS, "kkkk1lllll"] if part in text]
