"""The static site: complete in itself, escaped, and with the licence beside every text."""

import gc
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_sessionmaker, transaction
from app.exchange import static_site
from app.exchange.drawings import draw_densities
from app.exchange.features import export_features
from app.exchange.selection import Selection
from app.exchange.static_site import write_site
from app.queries.effects import EffectSummary, put_effects
from app.queries.feature_list import FeatureFilter, FeatureRow, list_features
from app.queries.saes import DensityHistogram, get_sae
from app.settings import Settings
from app.web.components import glossary
from app.web.components.effect_text import sentence
from tests.app.exchange.test_features import silent
from tests.effects import effect
from tests.factories import Synthetic, add_label, add_run, make_sae
from tests.web.html import Element, parse
from tests.web.site import site

pytestmark = pytest.mark.read_only

Sessions = async_sessionmaker[AsyncSession]
LABEL = 'rivers </script><b> "wide" &'


@pytest.fixture(scope="module")
async def made(module_engine: AsyncEngine) -> Synthetic:
    made = await make_sae(module_engine, features=24, sequences=60)
    async with transaction(create_sessionmaker(module_engine)) as session:
        await add_label(session, made.sae, 3, LABEL)
        await add_label(session, made.sae, 4, "a draft of mine", status="draft")
        await put_effects(session, made.sae.id, (await add_run(session)).id, [effect(3, 3.1, (2.7, 3.6))], {})
    return made


@pytest.fixture(scope="module")
async def folder(made: Synthetic, module_engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static") / "site"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(static_site, "ROWS", 10)
        sessions = create_sessionmaker(module_engine)
        await export_features(sessions, made.sae.slug, write_site, folder, progress=silent)
    return folder


def page(folder: Path, name: str) -> Element:
    return parse((folder / name).read_text(encoding="utf-8"))


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_there_is_a_page_for_each_feature_and_a_list_in_parts(folder: Path) -> None:
    names = {str(path.relative_to(folder)) for path in pages(folder)}
    assert names == {
        "index.html",
        "list/2.html",
        "list/3.html",
        *(f"features/{number}.html" for number in range(24)),
    }


def count_of_flag(index: Element, name: str) -> int:
    (row,) = (row for row in index.all("tr") if name in row.text)
    return int(row.all("td")[-1].text.replace(",", ""))


async def test_counts_are_those_of_the_exported_features(
    made: Synthetic, module_engine: AsyncEngine, folder: Path, tmp_path: Path
) -> None:
    sessions = create_sessionmaker(module_engine)
    chosen = Selection.parse("4-8")
    await export_features(sessions, made.sae.slug, write_site, tmp_path / "some", selection=chosen, progress=silent)
    whole, some = page(folder, "index.html"), page(tmp_path / "some", "index.html")
    assert "1 labelled" in whole.text
    assert "None labelled" in some.text
    async with sessions() as session:
        sae = await get_sae(session, made.sae.slug)
        assert sae is not None
        assert sae.index is not None
        rows = (await list_features(session, sae, FeatureFilter(limit=24))).rows
    names = {flag: glossary.health_name(flag) for flag in glossary.health(sae)}
    assert {flag: count_of_flag(whole, name) for flag, name in names.items()} == {
        flag: sae.index.health.get(flag, 0) for flag in names
    }
    assert {flag: count_of_flag(some, name) for flag, name in names.items()} == {
        flag: sum(flag in row.health for row in rows if row.index in chosen) for flag in names
    }
    counts = static_site._Counts(sae.index.densities.edges)
    counts.add(rows)
    assert counts.densities() == sae.index.densities


@pytest.mark.own_database
async def test_memory_does_not_grow_with_the_features(
    engine: AsyncEngine, sessionmaker: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_sae(engine, features=36, sequences=200)
    monkeypatch.setattr(static_site, "ROWS", 4)
    monkeypatch.setattr(static_site, "MAX_LIMIT", 8)
    monkeypatch.setattr(static_site, "MOST_TOKENS", 1000)
    rows, texts = [], []
    write, whole = static_site._Site._write, static_site._Texts.whole

    def count_rows(self: static_site._Site, name: str, *arguments: Any) -> None:
        if name.startswith(("list/", "index")):
            rows.append(sum(type(found) is FeatureRow for found in gc.get_objects()))
        write(self, name, *arguments)

    def count_texts(self: static_site._Texts, *arguments: Any) -> Any:
        text = whole(self, *arguments)
        texts.append(sum(len(tokens) for tokens, _ in self._plain.values()))
        return text

    monkeypatch.setattr(static_site._Site, "_write", count_rows)
    monkeypatch.setattr(static_site._Texts, "whole", count_texts)
    await export_features(sessionmaker, made.sae.slug, write_site, tmp_path / "site", progress=silent)
    assert 4 <= max(rows) <= 28  # two answers, what is left of them, and the first page
    assert 500 < max(texts) <= 1000


def test_every_address_leads_to_a_file_of_the_folder(folder: Path) -> None:
    sheets = list(folder.rglob("*.css"))
    found = [(path, re.findall(r"""(?:href|src)="([^"]*)\"""", path.read_text("utf-8"))) for path in pages(folder)]
    found += [(path, re.findall(r"""url\("?([^")]*)""", path.read_text("utf-8"))) for path in sheets]
    checked = 0
    for path, addresses in found:
        for address in addresses:
            target = address.partition("#")[0]
            if not target:
                continue
            assert not re.match(r"/|[a-z]+:", address), f"{path}: {address}"
            assert (path.parent / target).resolve().is_relative_to(folder), f"{path}: {address}"
            assert (path.parent / target).is_file(), f"{path}: {address}"
            checked += 1
    assert checked > 300


def test_no_page_needs_a_server(folder: Path) -> None:
    for path in pages(folder):
        text = path.read_text("utf-8")
        assert not re.search(r"hx-|<form[^>]* action=|\bfetch\(", text), path
    assert "fetch(" not in (folder / "assets" / "js" / "export.js").read_text()


def test_the_licence_stands_on_every_page_that_shows_text(folder: Path, made: Synthetic) -> None:
    for path in pages(folder):
        foot = parse(path.read_text("utf-8")).one("footer").text
        assert "CC0-1.0" in foot, path
        assert "Nobody wrote these sentences." in foot, path


def test_a_feature_is_what_its_page_on_the_site_says(folder: Path, made: Synthetic) -> None:
    feature = page(folder, "features/3.html")
    assert feature.one("h1").text == LABEL
    row = made.features.rows()[3]
    examples = feature.all("li", cls="example")
    shown = [example for example in made.features.examples() if example.feature == 3]
    assert len(examples) == len(shown)
    vocabulary, ids = made.corpus.vocabulary, made.corpus.token_ids[shown[0].sequence]
    text = b"".join(vocabulary[token] for token in ids).decode(errors="ignore")
    whole = examples[0].one("p", cls="strip").text.replace("↵\n", "\n").replace("⇥", "\t")
    assert re.sub(r"\b[0-9A-F]{2}\b|\W", "", whole) == re.sub(r"\b[0-9A-F]{2}\b|\W", "", text)
    assert len(examples[0].one("p", cls="strip").all("span", cls="top")) >= 1
    assert feature.all("figure")[0].one("svg").one("path")["d"].startswith("M")
    assert f"{row.count:,} token" in feature.one("aside", cls="rail-second").text
    assert "a draft of mine" not in (folder / "features" / "4.html").read_text("utf-8")


async def test_a_page_has_the_sections_of_the_sites_page(folder: Path, made: Synthetic, settings: Settings) -> None:
    def titles(page: Element) -> list[str]:
        return [title.text for title in page.one("main").all("h2")]

    async with site(settings) as client:
        answer = await client.get(f"/saes/{made.sae.slug}/features/3")
    needs_a_server = {
        "Lists",
        "Comments",
        "Suggestions",
        "Try it on your own sentences",
        "Change it inside the model",
        "On text sets",
    }
    assert titles(page(folder, "features/3.html")) == [
        each for each in titles(parse(answer.text)) if each not in needs_a_server
    ]


def test_hostile_tokens_and_labels_are_text(folder: Path) -> None:
    for path in pages(folder):
        parsed = parse(path.read_text("utf-8"))
        assert all("alert" not in script.text for script in parsed.all("script")), path
        assert not [each for each in parsed.all("b") if "wide" in each.text], path
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in "".join(path.read_text("utf-8") for path in pages(folder))


def test_the_list_for_the_script_is_all_there_is(folder: Path, made: Synthetic) -> None:
    text = (folder / "assets" / "data.js").read_text("utf-8")
    assert text.isascii()
    data = json.loads(text.removeprefix("window.SEESAE = ").removesuffix(";\n"))
    rows = {row[0]: row for row in data["rows"]}
    assert sorted(rows) == list(range(24))
    assert rows[3][2] == LABEL
    assert LABEL.lower() in rows[3][1]
    stated = made.features.rows()[3]
    assert rows[3][10:12] == [pytest.approx(3.1), "3.1 ×"]
    assert (rows[3][12], rows[4][12]) == (sentence(EffectSummary(200, 3.1, (2.7, 3.6))), "")
    assert rows[3][6:9] == pytest.approx([stated.density, stated.max, stated.mean])


async def test_neighbours_that_stay_behind_are_no_links(
    made: Synthetic, sessionmaker: Sessions, tmp_path: Path
) -> None:
    await export_features(
        sessionmaker,
        made.sae.slug,
        write_site,
        tmp_path / "site",
        selection=Selection.parse("3-5"),
        progress=silent,
    )
    numbers = {str(number) for number in (3, 4, 5)}
    for number in numbers:
        feature = page(tmp_path / "site", f"features/{number}.html")
        entries = [entry for each in feature.all("ol", cls="neighbours") for entry in each.all("li")]
        linked = [link["href"].removesuffix(".html") for entry in entries for link in entry.all("a")]
        assert set(linked) <= numbers
        assert len(entries) > len(linked)
    written = [path.name for path in (tmp_path / "site" / "features").iterdir()]
    assert sorted(written) == ["3.html", "4.html", "5.html"]


@pytest.mark.parametrize("counts", [(0,) * 40, (1,) + (0,) * 39, (0,) * 39 + (100_000,)])
def test_densities_are_drawn_within_their_box(counts: tuple[int, ...]) -> None:
    edges = tuple(-5 + 5 * place / 40 for place in range(41))
    drawing = draw_densities(DensityHistogram(edges, counts, 0))
    assert all(0 <= tick.place <= 100 for tick in (*drawing.x, *drawing.y))
    assert 1 <= len(drawing.y) <= 8
    assert bool(drawing.bars) == any(counts)
