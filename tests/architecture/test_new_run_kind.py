"""docs/architecture.md says that a kind of run is one file and one line. Here is such a file; nothing else is added."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import httpx
import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from app.cli.run_commands import run_command
from app.cli.run_display import stderr_console
from app.queries import runs
from app.runs import spec as registry
from app.runs.job_context import JobContext
from app.runs.params import Option, Params
from app.runs.queue import do_run
from app.runs.spec import Result, RunSpec, StageSpec, register
from app.settings import get_settings
from tests.app.pipeline.running import run_row, submit
from tests.web.html import parse

if TYPE_CHECKING:
    from app.runs.context import RunContext

# --- app/pipeline/count_words.py: all that a new kind needs


class CountWordsParams(Params):
    """A text file."""

    file: Annotated[str, Option(argument=True, path=True), Field(description="The file to read.")]
    least: Annotated[int, Field(ge=1, description="Letters that a word has at least.")] = 1


async def run_count_words(run: "RunContext", ctx: JobContext, params: CountWordsParams) -> Result:
    """Count the words of the file."""
    async with run.stage("count") as progress:
        text = await run.in_thread(Path(params.file).read_text)
        words = [word for word in text.split() if len(word) >= params.least]
        progress(len(words), len(words))
    return {"average": sum(map(len, words)) / len(words), "words": len(words), "notes": ["Counted once."]}


COUNT_WORDS = RunSpec(
    kind="count-words",
    help="""Count the words of a file.

    Example: seesae count-words texts.txt --least 3
    """,
    params=CountWordsParams,
    stages=lambda _params: (StageSpec("count", "Count the words", unit="words"),),
    title=lambda params: f"Count the words of {Path(params.file).name}",
    work=run_count_words,
    result_order=("words", "average"),
)

# --- one line in app/pipeline/__init__.py: COUNT_WORDS stands in KINDS, and each of these is registered


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    register(COUNT_WORDS)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("a river and its bank")
    return file


@pytest.fixture
def environment(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("SEESAE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEESAE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_the_command_of_a_new_kind_does_the_work(environment: None, text: Path) -> None:
    app = typer.Typer()
    app.command(COUNT_WORDS.kind, help=COUNT_WORDS.help)(run_command(COUNT_WORDS))
    stderr_console.cache_clear()  # it keeps its stream, and the runner makes a new one
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert "Letters that a word has at least." in shown
    assert "Example: seesae count-words" in shown
    assert CliRunner().invoke(app, [str(text), "--least", "0"]).exit_code == 2
    done = CliRunner().invoke(app, [str(text), "--least", "3", "--json"])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result) == ["words", "average", "notes", "seconds"]
    assert (result["words"], result["average"]) == (4, 3.75)


async def test_the_site_has_a_form_for_a_new_kind(ctx: JobContext, client: httpx.AsyncClient, text: Path) -> None:
    assert parse((await client.get("/runs/new")).text).one("a", href="/runs/new/count-words").text == "Count words"
    page = parse((await client.get("/runs/new/count-words?least=3")).text)
    assert "Count the words of a file." in page.one("main").text
    assert page.one("input", name="least")["value"] == "3"
    assert page.one("p", id="param-least-hint").text == "Letters that a word has at least."
    wrong = parse((await client.post("/runs/new/count-words", data={"file": str(text), "least": "0"})).text)
    assert wrong.one("p", id="param-least-error").text == "Give 1 or more."
    assert wrong.one("input", name="file")["value"] == str(text)
    queued = await client.post("/runs/new/count-words", data={"file": str(text), "least": "3"})
    run = await run_row(ctx, int(queued.headers["location"].rpartition("/")[2]))
    assert (run.state, run.params) == ("queued", {"file": str(text), "least": 3})


async def test_queue_api_and_page_know_a_new_kind(ctx: JobContext, client: httpx.AsyncClient, text: Path) -> None:
    run_id = await submit(ctx, "count-words", CountWordsParams(file=str(text), least=3))
    async with ctx.sessions() as session:
        assert await runs.find_run(session, "count-words", {"file": str(text), "least": 3}, ("queued",)) is not None

    await do_run.func(SimpleNamespace(additional_context={"ctx": ctx}), run_id)
    assert (await run_row(ctx, run_id)).state == "done"

    kinds = {kind["kind"]: kind for kind in (await client.get("/api/v1/runs/kinds")).json()["kinds"]}
    assert kinds["count-words"]["summary"] == "Count the words of a file."
    assert kinds["count-words"]["params"]["properties"]["least"]["minimum"] == 1
    answer = (await client.get(f"/api/v1/runs/{run_id}")).json()
    assert (answer["kind"], answer["title"]) == ("count-words", "Count the words of texts.txt")
    assert answer["result"]["words"] == 4

    page = parse((await client.get(f"/runs/{run_id}")).text)
    shown = page.one("main").text
    assert "Count the words of texts.txt" in shown
    assert shown.index("words4") < shown.index("average3.75")
    assert shown.index("file") < shown.index("least3")
    assert "Counted once." in shown
