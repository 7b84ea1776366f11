"""Every target that SeeSAE is held to, and the table that sets each beside its figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Result = Mapping[str, Any]
State = Literal["met", "missed", "failed", "not measured"]

BENCHES: dict[str, tuple[str, ...]] = {
    "train-topk": ("train", "--architecture", "topk"),
    "train": ("train",),
    "index": ("index", "--rounds", "3"),
    "probe": ("probe",),
    "generate": ("generate",),
    "web": ("web",),
    "first-run": ("first-run",),
}
"""Arguments of `seesae bench`, by name; the order in which they run."""


@dataclass(frozen=True)
class Target:
    """One figure of a benchmark's JSON, and what it is to be."""

    what: str
    bench: str
    """Of `BENCHES`."""
    key: str
    """Of the figure in the JSON; `a.b` is inside `a`."""
    least: float | None = None
    most: float | None = None
    most_key: str = ""
    """Of a limit that the same run measures."""
    unit: str = ""


TARGETS = (
    Target("training step, TopK, of the encoder's product", "train-topk", "ratio", least=0.5),
    Target("training step, BatchTopK, of the encoder's product", "train", "ratio", least=0.5),
    Target("index of all features, times the bare forward", "index", "ratio", most=1.25),
    Target("its peak memory above the model's", "index", "over_model_mb", most=1500, unit="MB"),
    Target(
        "probe of 64 tokens, p50; at most 1.2 times the forward, and 15 ms", "probe", "p50_ms", most_key="target_ms"
    ),
    Target("/healthz of the site while 32 people probe", "probe", "site_healthz_ms.max", most=50, unit="ms"),
    Target("/healthz of inference meanwhile", "probe", "inference_healthz_ms.max", most=50, unit="ms"),
    Target("text written without a change, of transformers' greedy loop", "generate", "default_share", least=0.9),
    Target("text written with features changed, of that without", "generate", "changed_share", least=0.85),
    Target(
        "feature page, p95 of server time, a million features, 32 readers", "web", "feature_p95_ms", most=25, unit="ms"
    ),
    Target("list, p95 of server time", "web", "list_p95_ms", most=40, unit="ms"),
    Target("processor time per page", "web", "web_cpu_ms", most=8, unit="ms"),
    Target("pages that fail", "web", "errors", most=0),
    Target("memory of each web process", "web", "web_rss_mb", most=150, unit="MB"),
    Target("database per feature", "web", "bytes_per_feature", most=6000, unit="B"),
    Target("demo from an empty home to the first feature page", "first-run", "feature_page_s", most=90, unit="s"),
    Target("its first forecast of that, share of what it took", "first-run", "foreseen_share", least=0.8, most=1.2),
    Target("its explained variance, held out", "first-run", "explained_variance", least=0.85),
    Target("its L0", "first-run", "l0", least=30.5, most=33.5),
    Target("its features that never fire", "first-run", "dead_percent", most=1, unit="%"),
    Target("its map of 4,096 features", "first-run", "map_s", most=10, unit="s"),
    Target("`seesae serve` to its first page", "first-run", "site_s", most=4, unit="s"),
    Target("first probe, asked once the site is up", "first-run", "first_probe_s", most=3, unit="s"),
)

ELSEWHERE = (
    ("training and statistics beside other tools", "≥ 4 and ≥ 20 times", "make bench-peers"),
    (
        "training and indexing on a GPU",
        "≥ 10M samples/s, ≥ 5 times SAELens; index ≤ 1.15 times forward",
        "make bench-gpu",
    ),
    ("nearest directions of 131,072 features", "≤ 120 s on two cores, exact", "python benchmarks/directions.py"),
    ("one index by two workers", "the same bytes; speed-up is told", "python benchmarks/shared_index.py FOLDER"),
    ("pages in Chromium", "≤ 600 kB, largest paint ≤ 1,000 ms, shift ≤ 0.02", "pytest -s tests/e2e/test_loading.py"),
    ("effects of 256 features of the demo", "≤ 480 s", "seesae effects SAE --features 256"),
)
"""Targets that another command measures: what, the target, and the command."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    target: str
    figure: str
    state: State
    command: str


def rows(results: Mapping[str, Result | None]) -> list[Row]:
    """Return a row per target.

    Args:
        results: the JSON of each benchmark that ran, by name; None of one that failed.
    """
    measured = [_row(target, results) for target in TARGETS]
    return [*measured, *(Row(what, target, "–", "not measured", command) for what, target, command in ELSEWHERE)]


def table(of: Sequence[Row]) -> str:
    """Return the rows as a Markdown table that a terminal shows in columns."""
    lines = [("what", "target", "figure", "", "run")]
    lines += [(row.what, row.target, row.figure, row.state, f"`{row.command}`") for row in of]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    written = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    written.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(written)


def _row(target: Target, results: Mapping[str, Result | None]) -> Row:
    command = " ".join(("seesae bench", *BENCHES[target.bench]))
    result = results.get(target.bench)
    if result is None:
        state: State = "failed" if target.bench in results else "not measured"
        return Row(target.what, _limit(target, target.most), "–", state, command)
    figure, most = _value(result, target.key), _value(result, target.most_key) if target.most_key else target.most
    if figure is None:
        return Row(target.what, _limit(target, most), "–", "not measured", command)
    met = (target.least is None or figure >= target.least) and (most is None or figure <= most)
    return Row(target.what, _limit(target, most), _number(figure, target.unit), "met" if met else "missed", command)


def _value(result: Result, key: str) -> float | None:
    found: Any = result
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return None if found is None else float(found)


def _limit(target: Target, most: float | None) -> str:
    if target.least and most is not None:
        return f"{_number(target.least)} to {_number(most, target.unit)}"
    if most is not None:
        return f"≤ {_number(most, target.unit)}"
    return f"≥ {_number(target.least, target.unit)}" if target.least is not None else "of the same run"


def _number(value: float, unit: str = "") -> str:
    return f"{value:,.4g}{' ' if unit else ''}{unit}" if abs(value) < 10_000 else f"{value:,.0f} {unit}".rstrip()
