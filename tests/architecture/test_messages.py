"""Messages of errors are read on the site, in answers of the API and at a terminal: they fit all three."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = (
    "sae_core",
    "app/queries",
    "app/services",
    "app/storage",
    "app/runs",
    "app/exchange",
    "app/pipeline",
    "app/web",
)
ERRORS = re.compile(r"(Error|Conflict|NotFound|Unprocessable|Unavailable|TooLarge|Forbidden|InUse|NotCompared)$")
OPTION = re.compile(r"(?<!\w)--[a-z]")
COMMAND = re.compile(r"`seesae [^`]*`")
"""A whole command is named where the site cannot do it itself."""


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string that is given to an error."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or not ERRORS.search(ast.unparse(node.func)):
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def test_no_message_names_an_option_of_the_command_line() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text}"
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*.py"))
        for line, text in messages(file)
        if OPTION.search(COMMAND.sub("", text)) and "torchrun" not in text
    ]
    assert not found, "name the parameter, as `hook_out`; the command line makes --hook-out of it"
