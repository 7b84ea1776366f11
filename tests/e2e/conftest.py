"""A real browser and a real server, for tests that look at the site as a person does.

`browser` is skipped with the reason where there is no Chromium; SEESAE_TEST_CHROMIUM names one elsewhere.
"""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_engine, create_sessionmaker, transaction
from app.main import create_app
from app.pipeline.compare import COMPARE, CompareParams
from app.queries.decisions import DecisionText, current_decisions
from app.queries.effects import put_effects
from app.queries.examples import get_examples
from app.queries.sql.visibility import Reader
from app.runs.submit import request_run
from app.services.actors import Actor
from app.services.adjudication import decide
from app.services.lists import ListText, NewItem, create_list
from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary, add_early_sae, make_dictionary, publish
from tests.audits import add_audit
from tests.blind import add_test
from tests.comparing import compare
from tests.conftest import as_reader, create_database, only_reads
from tests.e2e.pages import Site
from tests.edits import add_measured
from tests.effects import effect
from tests.factories import add_label, add_run, make_sae
from tests.labelling import label_together, make_set
from tests.monitors import add_alerts, add_monitor
from tests.text_comparisons import make_text_comparison
from tests.text_sets import make_pairs, make_text_set
from tests.web.serving import serving, serving_with_inference

expect.set_options(timeout=15_000)  # a machine with two busy cores is slow, and not wrong

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# First Chromium without windows: the same engine, and the browser tests take about half the time.
_PLACES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def chromium() -> str | None:
    """Path of Chromium, or None."""
    named = os.environ.get("SEESAE_TEST_CHROMIUM")
    return next((found for place in ([named] if named else _PLACES) if (found := shutil.which(place))), None)


@pytest.fixture(scope="session")
async def shared_browser() -> AsyncIterator[Browser]:
    """One Chromium for the whole session."""
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium: install Debian's chromium-headless-shell, or name one in SEESAE_TEST_CHROMIUM")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        yield browser
        await browser.close()


@pytest.fixture
async def browser(shared_browser: Browser) -> AsyncIterator[Browser]:
    """The browser of the session; a test's contexts, each of which is a fresh profile, are closed after it."""
    yield shared_browser
    for context in shared_browser.contexts:
        await context.close()


class Problems(list[str]):
    """Complaints of a page: script errors, policy violations, files that did not load."""

    def watch(self, page: Page) -> None:
        page.on("console", self._message)
        page.on("pageerror", lambda error: self.append(str(error)))

    def _message(self, message: ConsoleMessage) -> None:
        url = message.location.get("url", "")
        stopped = "net::ERR_" in message.text and "/events" in url  # a test's server stops while its pages listen
        if message.type in ("error", "warning") and not stopped:
            self.append(f"{message.text} ({url})")

    def forgive(self, text: str) -> None:
        """Drop the complaints that contain `text`; there must be at least one."""
        kept = [each for each in self if text not in each]
        assert len(kept) < len(self), f"nothing to forgive: {list(self)}"
        self[:] = kept


@pytest.fixture
def problems() -> Iterator[Problems]:
    """Complaints of the page so far; a test that leaves any fails."""
    found = Problems()
    yield found
    assert not found


@pytest.fixture
async def context(browser: Browser) -> BrowserContext:
    """A window of 1440 × 900 in the light theme."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    context.set_default_timeout(15_000)
    return context


@pytest.fixture
async def page(context: BrowserContext, problems: Problems) -> Page:
    """A page whose complaints are recorded."""
    page = await context.new_page()
    problems.watch(page)
    return page


@pytest.fixture
def serve() -> Iterator[Callable[[FastAPI], str]]:
    """Serves an application for the length of the test."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serving(app))


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path, author="ada")


@pytest.fixture
def live(settings: Settings, serve: Callable[[FastAPI], str]) -> str:
    """The address of the real site on a real port, on the test's database, without inference."""
    return serve(create_app(settings))


@pytest.fixture(scope="session")
def made_options() -> dict[str, Any]:
    return {"slug": "tiny-l1-batchtopk-60", "features": 60, "sequences": 80, "length": 48}


@pytest.fixture(scope="session")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Dictionary:
    """A tiny model with an SAE, which the inference service loads."""
    return make_dictionary(tmp_path_factory.mktemp("dictionary"))


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    """The site that `tests.e2e.pages` visits: shared by the tests that only read, and otherwise the test's own."""
    return request.getfixturevalue("shared_site" if only_reads(request) else "own_site")


@pytest.fixture(scope="session")
async def shared_site(
    postgres_url: str, dictionary: Dictionary, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    with contextmanager(create_database)(postgres_url) as url:
        engine = create_engine(url)
        names = await fill_site(engine, dictionary)
        await engine.dispose()
        settings = Settings(database_url=as_reader(url), home=tmp_path_factory.mktemp("site"), author="ada")
        with serving_with_inference(settings, dictionary) as address:
            yield Site(address, names)


@pytest.fixture
async def own_site(engine: AsyncEngine, settings: Settings, dictionary: Dictionary) -> AsyncIterator[Site]:
    names = await fill_site(engine, dictionary)
    with serving_with_inference(settings, dictionary) as address:
        yield Site(address, names)


async def fill_site(engine: AsyncEngine, dictionary: Dictionary) -> dict[str, str]:
    """Put something into every corner of a site; return what the `{names}` in the addresses of its pages stand for."""
    model = replace(dictionary.row.model, name="tiny-live")  # another than the made-up one that is called tiny
    live = await publish(engine, replace(dictionary, row=replace(dictionary.row, model=model)))
    await add_early_sae(engine, dictionary, live.model.id)
    spare = await make_sae(engine, slug="spare", features=24, sequences=80, length=48)  # no run uses it
    bare = await make_sae(engine, slug="bare", publish=False)
    made = await make_sae(engine, slug="tiny-l1-batchtopk-60", features=60, sequences=80, length=48)
    narrow = await make_sae(engine, slug="tiny-l1-batchtopk-24", features=24, sequences=80, length=48)
    await compare(engine, narrow, made)
    async with transaction(create_sessionmaker(engine)) as session:
        await add_label(session, made.sae, 1, "words for music", categories=("topic", "music"))
        await add_label(session, made.sae, 5, "W" * 200, author="W" * 80, categories=("W" * 40,))
        hers = await add_label(session, made.sae, 1, "instruments, strings above all", author="grace")
        test = await add_test(session, made, "detection", label=hers)
        answered = await add_test(session, made, "fuzzing", label=hers, first=20, testers=("ada", "emmy"))
        intruder = await add_test(session, made, "intruder", first=40)
        done = await add_run(session, made.sae)
        failed = await add_run(session, bare.sae, ends="failed")
        effects = [
            effect(1, 3.1, (2.7, 3.6)),
            effect(2, 1.04, (0.9, 1.2)),
            effect(3, 1.8, None, tokens=6),
            effect(4, None, None, tokens=0),
        ]
        await put_effects(session, made.sae.id, done.id, effects, {"held_out_from_training": False})
        running = await add_run(session, ends="running")
        queued = await request_run(
            session, COMPARE, CompareParams(a=narrow.sae.slug, b=bare.sae.slug), settings=Settings(), actor=Actor("ada")
        )
        examples = await get_examples(session, made.sae, 1)
        items = [NewItem(made.sae.slug, 1, "the strings"), NewItem(narrow.sae.slug, 2)]
        text = ListText("Music", "What belongs to an orchestra.")
        kept = await create_list(session, text, items, actor=Actor("W" * 80))
        edit = await add_measured(session, live, done.id)
        audit = await add_audit(session, made.sae, done.id)
        monitor = await add_monitor(session, made.sae, done.id, keep_text=True)
        await add_alerts(session, monitor, text="W" * 200)
        textset = await make_text_set(session, "days")
        pairs = await make_pairs(session)
        texts, _ = await make_text_comparison(session, made.sae)
        rude, _ = await make_text_comparison(session, made.sae, name="rude", offensive=True)
    labelled = await make_set(engine, narrow.sae)
    await label_together(engine, narrow.sae)
    unlabelled = await make_set(engine, narrow.sae, "W" * 80)
    async with transaction(create_sessionmaker(engine)) as session:
        for words in ("words for syntax", "W" * 200):
            held = await current_decisions(session, labelled.id, reader=Reader(sees_all=True))
            replaces = held[0].id if held else None
            text = DecisionText(words, ("syntax",), 4, "its examples have nothing else")
            await decide(session, labelled, narrow.sae, 0, actor=Actor("ada"), text=text, replaces=replaces)
    return {
        "sae": made.sae.slug,
        "narrow": narrow.sae.slug,
        "spare": spare.sae.slug,
        "list": kept.public_id,
        "set": str(hers.label_set_id),
        "test": str(test),
        "answered": str(answered),
        "intruder": str(intruder),
        "edit": edit,
        "audit": str(audit),
        "monitor": monitor,
        "textset": textset.name,
        "pairs": pairs.name,
        "texts": str(texts),
        "rude": str(rude),
        "labelset": str(labelled.id),
        "unlabelled": str(unlabelled.id),
        "bare": bare.sae.slug,
        "live": live.slug,
        "done": str(done.id),
        "failed": str(failed.id),
        "running": str(running.id),
        "queued": str(queued.id),
        "sequence": str(examples[0].sequence),
        "dead": str(made.sae.d_sae - 1),
    }
