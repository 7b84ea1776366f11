"""Exports of features: which, into which folder, and as lines of JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.errors import Conflict, NotFound, Unprocessable
from app.exchange.features import Progress, Source, export_features
from app.exchange.jsonl import FEATURES, write_jsonl
from app.exchange.selection import Selection
from app.settings import Settings
from tests.factories import Synthetic, add_label, make_sae
from tests.web.site import site

pytestmark = pytest.mark.read_only

Sessions = async_sessionmaker[AsyncSession]


def silent(done: int, total: int) -> None:
    """Nobody listens."""


async def lines(sessions: Sessions, folder: Path, **options: Any) -> list[dict[str, Any]]:
    await export_features(sessions, "tiny-l1-batchtopk-24", write_jsonl, folder, progress=silent, **options)
    return [json.loads(line) for line in (folder / FEATURES).read_text(encoding="utf-8").splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "numbers"), [("3", {3}), ("0-2,5", {0, 1, 2, 5}), (" 4 - 6 , 1", {1, 4, 5, 6}), ("2,1-3", {1, 2, 3})]
)
def test_selections(text: str, numbers: set[int]) -> None:
    selection = Selection.parse(text)
    assert {number for number in range(10) if number in selection} == numbers
    assert Selection.parse(str(selection)) == selection


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,,2", "1-2-3", "5-3", "9" * 5000, "٣", "1.5"])
def test_invalid_selections_are_refused(text: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        Selection.parse(text)
    assert len(str(refused.value)) < 120


async def test_lines_equal_the_answers_of_the_api(
    made: Synthetic, sessionmaker: Sessions, settings: Settings, tmp_path: Path
) -> None:
    found = await lines(sessionmaker, tmp_path / "out")
    assert [each["index"] for each in found] == list(range(24))
    async with site(settings) as client:
        for number in (0, 7):
            said = await client.get(f"/api/v1/saes/{made.sae.slug}/features/{number}")
            assert found[number] == said.json()


@pytest.mark.own_database
async def test_drafts_of_labels_do_not_leave(
    made: Synthetic, sessionmaker: Sessions, session: AsyncSession, tmp_path: Path
) -> None:
    await add_label(session, made.sae, 3, "seen by all")
    await add_label(session, made.sae, 4, "a draft of mine", status="draft")
    await session.commit()
    found = await lines(sessionmaker, tmp_path / "out", selection=Selection.parse("3,4"))
    assert [[label["explanation"] for label in feature["labels"]] for feature in found] == [["seen by all"], []]


async def test_only_selected_features_are_written(made: Synthetic, sessionmaker: Sessions, tmp_path: Path) -> None:
    found = await lines(sessionmaker, tmp_path / "out", selection=Selection.parse("3-5,20-90"))
    assert [each["index"] for each in found] == [3, 4, 5, 20, 21, 22, 23]
    with pytest.raises(Unprocessable, match="none of the features 24-90: it has 24, numbered 0 to 23"):
        await lines(sessionmaker, tmp_path / "none", selection=Selection.parse("24-90"))
    assert not (tmp_path / "none").exists()


async def test_a_folder_that_is_not_empty_is_left_as_it_is(
    made: Synthetic, sessionmaker: Sessions, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="holds something"):
        await lines(sessionmaker, tmp_path)
    assert names(tmp_path) == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert len(await lines(sessionmaker, tmp_path / "empty")) == 24


async def test_a_failed_export_leaves_no_files(made: Synthetic, sessionmaker: Sessions, tmp_path: Path) -> None:
    async def breaks(source: Source, folder: Path, progress: Progress) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await export_features(sessionmaker, made.sae.slug, breaks, tmp_path / "out", progress=silent)
    assert names(tmp_path) == []


@pytest.mark.own_database
async def test_an_export_needs_an_sae_with_an_index(
    engine: AsyncEngine, sessionmaker: Sessions, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="There is no SAE"):
        await lines(sessionmaker, tmp_path / "out")
    await make_sae(engine, publish=False)
    with pytest.raises(Conflict, match="seesae index"):
        await lines(sessionmaker, tmp_path / "out")
