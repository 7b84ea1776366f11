"""The docs are held to the code."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app as cli
from app.main import create_app
from app.settings import PREFIX, Settings

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def test_settings_page_lists_every_setting() -> None:
    page = (CHECKOUT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.+) \|$", page, flags=re.MULTILINE))
    assert rows == {PREFIX + name.upper(): field.description for name, field in Settings.model_fields.items()}


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(
            r"\]\(([^)#]+)(?:#[^)]*)?\)|<img[^>]* src=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        ):
            link = target[0] or target[1]
            if not link.startswith(("http://", "https://")) and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_api_page_lists_every_route() -> None:
    page = (CHECKOUT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([A-Z]+ /api/v1/\S+)` \|", page, flags=re.MULTILINE))
    paths = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/none")).openapi()["paths"]
    assert listed == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def commands() -> list[str]:
    """Every `seesae …` line in a fenced block of the docs."""
    blocks = [block for page in PAGES for block in re.findall(r"^```\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return sorted({line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?seesae ", line)})


@pytest.mark.parametrize("command", commands())
def test_commands_exist(command: str) -> None:
    """With --help added, typer still refuses a command or an option that is not there."""
    result = CliRunner().invoke(cli, [*shlex.split(command, comments=True)[1:], "--help"])
    assert result.exit_code == 0, result.output
