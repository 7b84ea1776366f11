"""Targets beside figures: what is met, missed, failed or not measured, and the exit status of `seesae bench all`."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from typer.testing import CliRunner

from app.bench import every, targets
from app.bench.targets import BENCHES, ELSEWHERE, TARGETS, Row, rows, table
from app.cli import app
from app.cli.run_display import stderr_console

SMALL = ("web", "--saes", "2", "--features", "256", "--clients", "2", "--seconds", "1", "--pause", "0.1")


run_once = cache(every._run)
"""A benchmark's real run, which takes seconds: these tests are of what becomes of its figures."""


def figures(bench: str) -> dict[str, Any]:
    """What meets every target of a benchmark, at its limit."""
    result: dict[str, Any] = {}
    for target in TARGETS:
        if target.bench == bench:
            *outer, last = target.key.split(".")
            inner = result
            for part in outer:
                inner = inner.setdefault(part, {})
            inner[last] = 70.1 if target.most_key else target.most if target.least is None else target.least
            result |= {target.most_key: 70.1} if target.most_key else {}
    return result


def found(what: str, of: list[Row]) -> Row:
    (row,) = [row for row in of if row.what == what]
    return row


def test_every_target_has_a_row_and_its_limit_counts_as_met() -> None:
    measured = rows({name: figures(name) for name in BENCHES})
    assert len(measured) == len(TARGETS) + len(ELSEWHERE)
    assert [row.state for row in measured] == ["met"] * len(TARGETS) + ["not measured"] * len(ELSEWHERE)
    assert {target.bench for target in TARGETS} == set(BENCHES)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.bench} {target.key}")
@pytest.mark.parametrize("side", ["least", "most"])
def test_a_figure_beyond_its_limit_is_missed(target: targets.Target, side: str) -> None:
    most = 70.1 if target.most_key else target.most
    limit = target.least if side == "least" else most
    if limit is None:
        return
    result = figures(target.bench)
    *outer, last = target.key.split(".")
    inner = result
    for part in outer:
        inner = inner[part]
    inner[last] = limit * 0.99 if side == "least" else limit * 1.01 + 0.01
    row = found(target.what, rows({target.bench: result}))
    assert row.state == "missed"
    assert row.command == " ".join(("seesae bench", *BENCHES[target.bench]))


def test_a_benchmark_that_did_not_run_or_failed_or_lacks_a_figure_is_not_met() -> None:
    what = "`seesae serve` to its first page"
    assert found(what, rows({})).state == "not measured"
    assert found(what, rows({"first-run": None})).state == "failed"
    assert found(what, rows({"first-run": {"site_s": None}})).state == "not measured"
    assert found(what, rows({"first-run": {"site_s": 3.21}})).figure == "3.21 s"


def test_the_table_is_markdown_in_columns() -> None:
    lines = table(rows({"probe": {"p50_ms": 58.4, "target_ms": 61.3}, "train": {"ratio": 0.41}})).splitlines()
    assert len({len(line) for line in lines}) == 1
    probe = next(line for line in lines if "p50" in line)
    assert [cell.strip() for cell in probe.split("|")[2:-1]] == ["≤ 61.3", "58.4", "met", "`seesae bench probe`"]
    assert any(line.split("|")[2:5] for line in lines if "BatchTopK" in line and "missed" in line and "≥ 0.5" in line)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> None:
    """Two benchmarks: one that is done in seconds, and one that fails."""
    monkeypatch.setenv("SEESAE_DATABASE_URL", postgres_url)
    monkeypatch.setattr(every, "_run", run_once)
    monkeypatch.setattr(every, "BENCHES", {"web": SMALL, "train": ("train", "--architecture", "no-such")})


def run(*options: str) -> tuple[int, dict[str, Any]]:
    stderr_console.cache_clear()
    result = CliRunner().invoke(app, ["bench", "all", *options, "--json"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def test_a_missed_target_is_said_and_ends_with_1_only_if_strict(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    code, written = run("--only", "web")
    assert code == 0
    assert written["results"]["web"]["features"] == 512
    states = {row["what"]: row["state"] for row in written["targets"]}
    assert states["pages that fail"] == "met"
    assert states["training step, BatchTopK, of the encoder's product"] == "not measured"
    one = targets.Target("pages", "web", "features", most=1)
    monkeypatch.setattr(targets, "TARGETS", (one,))
    assert run("--only", "web")[0] == 0
    code, written = run("--only", "web", "--strict")
    assert code == 1
    assert next(row["state"] for row in written["targets"]) == "missed"


def test_a_benchmark_that_fails_leaves_the_others_their_figures(small: None) -> None:
    code, written = run()
    assert code == 1
    states = {row["what"]: row["state"] for row in written["targets"]}
    assert states["training step, BatchTopK, of the encoder's product"] == "failed"
    assert states["pages that fail"] == "met"


@pytest.mark.parametrize("made", [True, False])
def test_the_probe_asks_the_demos_sae_which_is_made_first(monkeypatch: pytest.MonkeyPatch, made: bool) -> None:
    asked: list[tuple[str, ...]] = []

    def note(*arguments: str) -> Mapping[str, Any] | None:
        asked.append(arguments)
        return {} if made else None

    monkeypatch.setattr(every, "_run", note)
    assert every.run(["train", "probe"], lambda _line: None) == {
        "train": {} if made else None,
        "probe": {} if made else None,
    }
    demo = ("demo", "--no-serve")
    assert asked == [("bench", "train"), demo, *([("bench", "probe")] if made else [])]


def test_a_name_that_no_benchmark_has_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "all", "--only", "rockets"])
    assert result.exit_code == 1
