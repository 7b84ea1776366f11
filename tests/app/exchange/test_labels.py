"""Exports of labels: one row per label, whole, without drafts, and as the site downloads them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.errors import Conflict, NotFound
from app.exchange import labels as exchange
from app.exchange.labels import export_labels
from app.exchange.selection import Selection
from app.settings import Settings
from tests.factories import Synthetic, make_sae
from tests.web.site import site

Sessions = async_sessionmaker[AsyncSession]

LABELS: list[tuple[int, dict[str, Any]]] = [
    (3, {"explanation": "rivers, wide\nand slow", "categories": ["water", "places"], "confidence": 4}),
    (3, {"explanation": "rivers", "author": "grace", "interpretability": 5}),
    (7, {"explanation": "law", "set": "second reading"}),
    (8, {"explanation": "not yet", "status": "draft"}),
]
KEPT = ("explanation", "categories", "confidence", "interpretability", "author", "set", "status")


async def write_labels(settings: Settings, made: Synthetic) -> list[dict[str, Any]]:
    """Write `LABELS` through the API, and return its answers."""
    written = []
    async with site(settings) as client:
        for feature, label in LABELS:
            url = f"/api/v1/saes/{made.sae.slug}/features/{feature}/labels/mine"
            answer = await client.put(url, json=label)
            assert answer.status_code == 200, answer.text
            written.append({"sae": made.sae.slug, "feature": feature} | answer.json())
    return written


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]


async def test_each_submitted_label_is_a_row_with_all_that_is_known_of_it(
    made: Synthetic, sessionmaker: Sessions, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_BATCH", 2)
    monkeypatch.setattr("app.web.api.labels._BATCH", 2)
    written = await write_labels(settings, made)
    result = await export_labels(sessionmaker, made.sae.slug, tmp_path / "out")
    assert (result["labels"], result["files"]) == (3, 3)
    assert rows(tmp_path / "out") == written[:3]
    text = (tmp_path / "out" / "labels.csv").read_bytes().decode()
    cells = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [cell["categories"] for cell in cells] == ["water; places", "", ""]
    for name in ("feature", "author", "set", "status", "explanation", "confidence", "created_at"):
        assert [cell[name] for cell in cells] == ["" if row[name] is None else str(row[name]) for row in written[:3]]
    async with site(settings) as client:
        url = f"/api/v1/saes/{made.sae.slug}/labels/export"
        assert (await client.get(url, params={"format": "json"})).json() == written[:3]
        downloaded = await client.get(url)
        assert downloaded.text == text
        assert downloaded.headers["content-disposition"].endswith(f'"{made.sae.slug}-labels.csv"')
        assert (await client.get("/api/v1/saes/nothing/labels/export")).status_code == 404


async def test_an_exported_label_can_be_written_again(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings, tmp_path: Path
) -> None:
    await write_labels(settings, made)
    await export_labels(sessionmaker, made.sae.slug, tmp_path / "out")
    first = rows(tmp_path / "out")
    other = await make_sae(engine, slug="other", publish=False)
    async with site(settings) as client:
        for row in first:
            url = f"/api/v1/saes/{other.sae.slug}/features/{row['feature']}/labels/mine"
            assert (await client.put(url, json={name: row[name] for name in KEPT})).status_code == 200
    await export_labels(sessionmaker, other.sae.slug, tmp_path / "again")
    again = rows(tmp_path / "again")
    assert [[row[name] for name in ("feature", *KEPT)] for row in again] == [
        [row[name] for name in ("feature", *KEPT)] for row in first
    ]


async def test_labels_of_some_features_are_chosen(
    made: Synthetic, sessionmaker: Sessions, settings: Settings, tmp_path: Path
) -> None:
    await write_labels(settings, made)
    chosen = Selection.parse("4-20")
    assert (await export_labels(sessionmaker, made.sae.slug, tmp_path / "a", selection=chosen))["labels"] == 1
    assert [row["feature"] for row in rows(tmp_path / "a")] == [7]
    with pytest.raises(Conflict, match="holds something"):
        await export_labels(sessionmaker, made.sae.slug, tmp_path / "a")
    with pytest.raises(NotFound, match="There is no SAE"):
        await export_labels(sessionmaker, "nothing", tmp_path / "b")
