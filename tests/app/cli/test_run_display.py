"""Stages in a terminal, and where output is piped."""

from dataclasses import fields, replace
from io import StringIO

from rich.console import Console

from app.cli.run_display import StageDisplay, amount, in_order, result_text
from app.queries.runs import Stage
from sae_core.evaluation import Evaluation

FETCH = Stage("fetch", "Fetch the model", unit="bytes")
TRAIN = Stage("train", "Train the SAE", unit="samples")


def shown(console: Console, *moments: tuple[Stage, ...]) -> str:
    with StageDisplay(console) as display:
        for stages in moments:
            display.show(stages)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_piped_output_has_a_line_for_each_start_and_end_and_none_for_what_was_done_before() -> None:
    done = replace(FETCH, state="done", done=10, total=10, seconds=3.0)
    text = shown(
        Console(file=StringIO()),
        (done, TRAIN),
        (done, replace(TRAIN, state="running", done=1, total=9)),
        (done, replace(TRAIN, state="running", done=5, total=9)),
        (done, replace(TRAIN, state="done", done=9, total=9, seconds=2.5)),
    )
    assert text.splitlines() == ["Train the SAE: running", "Train the SAE: done in 2.5 s"]


def test_a_terminal_shows_counts_in_their_units_and_the_time_taken() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    text = shown(
        console,
        (replace(FETCH, state="running", done=46_000_000, total=92_000_000), TRAIN),
        (replace(FETCH, state="done", done=92_000_000, total=92_000_000, seconds=4.0), TRAIN),
        (replace(FETCH, state="done", total=92_000_000), replace(TRAIN, state="running", done=2048, total=1_000_000)),
    )
    assert "92.0 MB" in text
    assert "2,048 / 1,000,000 samples" in text
    assert "✓ Fetch the model" in text


def test_amounts_and_results() -> None:
    assert amount(204_800, "tokens") == "204,800 tokens"
    assert amount(92_871_040, "bytes") == "92.9 MB"
    assert amount(3, "") == "3"
    result = in_order(
        {"seconds": {"train": 2.0, "fetch": 1.0}, "l0": 31.98765, "zeta": 1, "features": 4096, "sae": "slug"},
        [FETCH, TRAIN],
    )
    assert list(result) == ["sae", "features", "l0", "zeta", "seconds"]
    assert list(result["seconds"]) == ["fetch", "train"]
    assert " ".join(result_text(result).split()) == "sae slug features 4,096 l0 31.99 zeta 1 seconds 3 in all"


def test_metrics_are_a_table_with_intervals_and_tokens() -> None:
    metrics = {entry.name: 0.5 for entry in fields(Evaluation)} | {"tokens": 1000, "ce_tokens": 900}
    intervals = {"explained_variance": [0.4, 0.6], "kl": [0.1, 0.9]}
    text = result_text({"sae": "slug", **metrics, "intervals": intervals, "seconds": {"evaluate": 2.0}})
    rows = {" ".join(line.split()[:-4]) or line: line.split() for line in text.splitlines()}
    assert ["explained", "variance", "0.5", "0.4", "–", "0.6", "1,000"] in rows.values()
    assert ["kl", "0.5", "0.1", "–", "0.9", "900"] in rows.values()
    assert sum("explained variance" in line for line in text.splitlines()) == 1


def test_several_saes_are_a_table() -> None:
    one = {"sae": "wide", "features": 8192, "tokens": 5, "explained_variance": 0.81234, "l0": 32.0}
    text = result_text({"saes": [one, {**one, "sae": "narrow"}]})
    assert ["wide", "8,192", "0.8123", "32"] in [line.split() for line in text.splitlines()]
