"""Results of runs as text."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from app.cli.result_text import full_text, ordered_result, result_text
from app.pipeline.demo import DEMO
from app.pipeline.import_sae import IMPORT
from app.queries.runs import Stage
from sae_core.evaluation import Evaluation


def test_a_result_is_in_the_order_of_its_declaration_and_stages_are_in_theirs() -> None:
    run: Any = SimpleNamespace(
        result={"seconds": {"train": 2.0, "fetch": 1.0}, "l0": 31.98765, "zeta": 1, "features": 4096, "sae": "slug"},
        stages=[Stage("fetch", "Fetch"), Stage("train", "Train")],
    )
    result = ordered_result(DEMO, run)
    assert list(result) == ["sae", "features", "l0", "zeta", "seconds"]
    assert list(result["seconds"]) == ["fetch", "train"]
    assert " ".join(result_text(result).split()) == "sae slug features 4,096 l0 31.99 zeta 1 seconds 3 in all"


def test_notes_and_the_next_step_come_last() -> None:
    result = {"sae": "mine", "format": "saelens", "notes": ["One.", "Two."]}
    *_, first, second, step = full_text(IMPORT, result).splitlines()
    assert (first, second) == ("One.", "Two.")
    assert "seesae index mine" in step


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


def test_what_could_not_be_measured_is_an_empty_cell() -> None:
    """Such as the CE recovered where the ablation costs nothing: the database keeps null for it."""
    metrics = {entry.name: 0.5 for entry in fields(Evaluation)} | {"tokens": 1000, "ce_tokens": 900}
    text = result_text({**metrics, "ce_recovered_mean": None, "intervals": {}})
    assert ["ce", "recovered", "mean", "900"] in [line.split() for line in text.splitlines()]
    one = {"sae": "wide", "features": 8192, "tokens": 5, "explained_variance": None, "l0": 32.0}
    assert ["wide", "8,192", "32"] in [line.split() for line in result_text({"saes": [one, one]}).splitlines()]
    assert result_text({"explained_variance": None}).split() == ["explained", "variance"]


def test_figures_within_figures_are_left_to_json() -> None:
    text = result_text({"interpretability": {"model": "small", "detection": 0.75}, "files": {"a.json": 1, "b.json": 2}})
    assert [line.split() for line in text.splitlines()] == [
        ["interpretability", "with", "--json"],
        ["files", "a.json,", "b.json"],
    ]
