"""Every command in README, CONTRIBUTING and docs runs in a test, or says in the page's source why it does not.

`seesae` and `curl` commands run here, on a tiny model and a small corpus. Processes that serve until they are stopped,
and commands that need a queue, are started by the tests that `STARTED_BY` names. `make` commands are dry runs. A block
of anything else stands below a comment in the Markdown that gives the reason: `<!-- not run: needs Docker -->`.
"""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from app.cli import app as cli
from app.cli.run_display import stderr_console
from app.settings import Settings, get_settings
from sae_core.checkpoints import save_sae
from sae_core.saes import TopK
from sae_core.saes.topk import TopKConfig
from tests.app.cli.test_cli import plain
from tests.app.inference.dictionaries import SLUG, make_dictionary, publish
from tests.tiny import CORPUS_FILE, tiny_model
from tests.web.probing import probing_site

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n\n?)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:seesae|make) [^`]+)`")
SHELL = ("sh", "console", "bash")
PROGRAMS = ("seesae", "make", "curl", "torchrun", "docker", "git", "pip", "python3", "export")
"""The first words of commands in blocks that name no language."""

RUN_HERE = ("train", "index", "evaluate", "import", "export", "compare", "doctor", "db", "gc", "delete")
STARTED_BY = {
    "demo": "tests/e2e/test_demo.py",
    "serve": "tests/app/supervision/test_supervisor.py",
    "web": "tests/app/supervision/test_supervisor.py",
    "worker": "tests/app/runs/test_worker.py",
    "inference": "tests/app/supervision/test_supervisor.py",
    "bench": "tests/app/bench/test_web.py",
    "torchrun": "tests/app/pipeline/test_train.py",
    "runs": "tests/app/cli/test_runs.py",
    "user": "tests/app/cli/test_accounts.py",
    "effects": "tests/app/pipeline/test_effects.py",
    "probe": "tests/app/cli/test_probe.py",
    "monitor": "tests/app/cli/test_monitors.py",
    "measure-edit": "tests/app/pipeline/test_measure_edit.py",
    "audit": "tests/app/pipeline/test_audit.py",
    "compare-texts": "tests/app/pipeline/test_compare_texts.py",
    "read-texts": "tests/app/pipeline/test_read_texts.py",
    "textset": "tests/app/cli/test_text_sets.py",
    "import-labels": "tests/app/cli/test_labels.py",
    "export-model": "tests/app/cli/test_edits.py",
}


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str
    arguments: tuple[str, ...]
    inline: bool = False
    not_run: str = ""
    """The reason that the page's source gives."""

    @property
    def program(self) -> str:
        return self.arguments[0]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.arguments)}"


def commands_of(name: str, text: str) -> list[Command]:
    """Return the commands of a page in their order."""
    found = []
    for match in BLOCK.finditer(text):
        reason, language, body = match.groups()
        for line in body.replace("\\\n", " ").splitlines():
            if language in SHELL or (not language and line.removeprefix(".venv/bin/").startswith(PROGRAMS)):
                words = shlex.split(line, comments=True)
                if words:
                    program = words[0].removeprefix(".venv/bin/")
                    found.append(Command(name, (program, *words[1:]), not_run=reason or ""))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found += [Command(name, tuple(shlex.split(code)), inline=True) for code in INLINE.findall(prose)]
    return found


COMMANDS = [command for page in PAGES for command in commands_of(page.name, page.read_text(encoding="utf-8"))]
RUN = [command for command in COMMANDS if not command.not_run]


def of_program(*programs: str) -> list[Command]:
    return sorted({command for command in RUN if command.program in programs}, key=str)


GROUPS = ("bench", "db", "runs", "user")
"""Commands that have commands of their own."""


def seesae(*arguments: str) -> str:
    """Run the command line in this process; return its output."""
    stderr_console.cache_clear()  # it keeps its stream, and the runner makes a new one for each command
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, f"seesae {shlex.join(arguments)}\n{result.output}"
    return result.output


def test_commands_are_found_with_the_reason_not_to_run_them() -> None:
    page = (
        "Try `seesae doctor` and `make`.\n\n<!-- not run: needs Docker -->\n```sh\ndocker compose up  # all\n```\n\n"
        "```sh\nseesae train \\\n    --k 4\n```\n\n```\nmake demo  # once\nsae_core/  the science\n```\n\n"
        "```python\nmake = 1\n```\n"
    )
    assert commands_of("page", page) == [
        Command("page", ("docker", "compose", "up"), not_run="needs Docker"),
        Command("page", ("seesae", "train", "--k", "4")),
        Command("page", ("make", "demo")),
        Command("page", ("seesae", "doctor"), inline=True),
    ]


@pytest.mark.parametrize("command", sorted(set(RUN), key=str), ids=str)
def test_a_command_runs_in_a_test_or_says_why_not(command: Command) -> None:
    subject = command.arguments[1] if command.program == "seesae" else command.program
    if subject in STARTED_BY:
        assert subject in (CHECKOUT / STARTED_BY[subject]).read_text(encoding="utf-8")
    else:
        assert subject in (*RUN_HERE, "curl", "make", "git"), "mark its block in the page: <!-- not run: the reason -->"


@pytest.mark.parametrize("command", of_program("seesae", "torchrun"), ids=str)
def test_a_seesae_command_exists_with_its_options(command: Command) -> None:
    """With --help added, typer still refuses a command or an option that is not there.

    In prose an option may stand without its value, as in `seesae evaluate --predictions`.
    """
    _, *arguments = command.arguments[command.arguments.index("app.cli") if command.program == "torchrun" else 0 :]
    if command.inline:
        group = arguments[:2] if arguments[0] in GROUPS else arguments[:1]
        shown = plain(seesae(*group, "--help"))
        assert not [word for word in arguments if word.startswith("--") and word not in shown]
    else:
        seesae(*arguments, "--help")


@pytest.mark.parametrize("command", of_program("make"), ids=str)
def test_a_make_target_exists(command: Command) -> None:
    dry = subprocess.run(["make", "--dry-run", *command.arguments[1:]], cwd=CHECKOUT, capture_output=True, check=False)
    assert dry.returncode == 0, dry.stderr


SMALL = {
    "texts.jsonl": str(CORPUS_FILE),
    "wikipedia-summaries": str(CORPUS_FILE),
    "CORPUS": str(CORPUS_FILE),
    "resid_post.9": "resid_post.1",
    "resid_post.12": "resid_post.1",
    "mlp_in.9": "mlp_in.1",
    "mlp_out.9": "mlp_out.1",
    "8192": "64",
    "16384": "64",
    "4096,8192": "64,96",
    "64": "4",
    "32,64": "6,8",
    "SAE": "my-sae",
    "SLUG": "my-sae",
    "smollm2-135m-l9-topk-4096": "tiny-llama-l1-topk-64-k4",
    "smollm2-135m-l9-batchtopk-4096": "my-sae",
    "0-999,2047": "0-3",
    "hf:google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82": "downloads/my-sae",
    "downloads/gpt2-small/9-res-jb": str(CHECKOUT / "tests" / "fixtures" / "neuronpedia" / "release"),
}
"""Replacements for the large models, texts and dictionaries of the pages."""
MODELS = ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m", "org/model")
ADDED = {
    "train": ("--samples", "2000", "--batch-size", "256", "--length", "32"),
    "index": ("--length", "32"),
    "evaluate": ("--length", "32"),
}


@pytest.mark.slow
def test_seesae_commands_run_on_a_tiny_model(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one home folder and in the order of the pages, so that a command can use what an earlier one made."""
    model = str(tiny_model(tmp_path / "tiny-llama"))
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": str(tmp_path / "home"), "DATABASE_URL": database_url, "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"SEESAE_{name}", value)
    get_settings.cache_clear()
    sae = TopK(TopKConfig(d_in=32, d_sae=64, k=4))
    sae.initialise(torch.randn(100, 32, generator=torch.Generator().manual_seed(0)), seed=0)
    save_sae(sae, tmp_path / "downloads" / "my-sae", {"model_name": model, "hook_name": "blocks.1.hook_resid_post"})
    (tmp_path / "sweep.toml").write_text(f"model = {model!r}\nhook = 'resid_post.1'\ncorpus = {str(CORPUS_FILE)!r}\n")
    trained = False
    # `seesae db` first: pg_restore cannot drop the partitions of a published index.
    for command in sorted(RUN, key=lambda command: command.arguments[1:2] != ("db",)):
        if command.program != "seesae" or command.arguments[1] not in RUN_HERE or command.inline:
            continue
        kind, *arguments = command.arguments[1:]
        arguments = [model if word in MODELS else SMALL.get(word, word) for word in arguments]
        if kind == "train" and not trained and "--name" not in arguments:
            arguments += ["--name", "my-sae"]
        trained |= kind == "train"
        if kind == "import" and arguments[0] == "downloads/my-sae":
            arguments += ["--model", model]
        seesae(kind, *arguments, *ADDED.get(kind, ()))
    assert trained


def request_of(command: Command) -> tuple[str, str, object]:
    """Return method, path and JSON body of a `curl` command."""
    method, body, address = "", None, ""
    words = iter(command.arguments[1:])
    for word in words:
        if word == "--request":
            method = next(words)
        elif word == "--json":
            body = json.loads(next(words))
        else:
            address = word
    path = address.removeprefix("http://127.0.0.1:8000").replace("smollm2-135m-l9-batchtopk-4096", SLUG)
    return method or ("GET" if body is None else "POST"), path, body


async def test_curl_commands_are_answered(database_url: str, engine: AsyncEngine, tmp_path: Path) -> None:
    dictionary = make_dictionary(tmp_path)
    await publish(engine, dictionary)
    async with probing_site(dictionary, Settings(database_url=database_url, home=tmp_path / "home")) as client:
        for command in of_program("curl"):
            method, path, body = request_of(command)
            sent = json.loads(json.dumps(body).replace("smollm2-135m-l9-batchtopk-4096", SLUG))
            answer = await client.request(method, path, json=sent)
            assert answer.is_success, f"{command}: {answer.text}"
