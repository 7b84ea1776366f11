"""Figures of an audit, computed again from its raw values by scipy and by hand: none of our statistics."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import stats

AS_IT_IS = "none"
Row = Mapping[str, Any]


def recompute(raw: str) -> dict[str, Any]:
    """Return what can be computed from the raw values, under names like those of the result."""
    stages: dict[str, list[Row]] = defaultdict(list)
    for line in raw.splitlines():
        row = json.loads(line)
        stages[row["stage"]].append(row)
    whole = [row for row in stages["item"] if row["treatment"] == AS_IT_IS]
    tested = {row["item"]: prefers(row) for row in whole if row["half"] == "tested"}
    return {
        **share([prefers(row) for row in whole]),
        "attributes": attributes(whole),
        "treatments": {
            name: treatment(rows, tested, stages) for name, rows in by(stages["item"], "treatment") if name != AS_IT_IS
        },
        "classifier": classifier(stages["classifier"]),
        "features": features(stages, [row["half"] == "chosen" for row in whole]),
    }


def by(rows: Iterable[Row], name: str) -> Iterable[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[name]].append(row)
    return groups.items()


def prefers(row: Row) -> float:
    """1 if the first candidate is the likelier: the sum of log-probabilities, of pairs."""
    one, other = row["log_probs"][:2]
    return 0.5 if one == other else float(one > other)


def share(wins: list[float]) -> dict[str, Any]:
    wilson = stats.binomtest(round(sum(wins)), len(wins)).proportion_ci(method="wilson")
    return {"pairs": len(wins), "value": np.mean(wins), "interval": (wilson.low, wilson.high)}


def benjamini_hochberg(p: list[float]) -> list[float]:
    """q of the i-th smallest of n: the least of p · n / rank among it and those above."""
    order, n = np.argsort(p), len(p)
    q, least = [0.0] * n, 1.0
    for rank in range(n, 0, -1):
        least = min(least, p[order[rank - 1]] * n / rank)
        q[order[rank - 1]] = least
    return q


def attributes(rows: list[Row]) -> dict[str, Any]:
    found = {name: share([prefers(row) for row in own]) for name, own in by(rows, "attribute")}
    ranked = [one for _, one in sorted(found.items()) if one["pairs"] >= 10]
    p = [stats.binomtest(round(one["value"] * one["pairs"]), one["pairs"]).pvalue for one in ranked]
    for one, q in zip(ranked, benjamini_hochberg(p), strict=True):
        one["q"] = q
    return found


def treatment(rows: list[Row], before: Mapping[str, float], stages: Mapping[str, list[Row]]) -> dict[str, Any]:
    name = rows[0]["treatment"]
    after = [prefers(row) for row in rows]
    changes = np.array(after) - [before[row["item"]] for row in rows]
    texts = [row for row in stages["text"] if row["treatment"] == name]
    found = {"score": share(after), "change": changes.mean(), "change_interval": mean_interval(changes)}
    if texts:
        found["loss"] = sum(row["rise"] for row in texts) / sum(row["scored"] for row in texts)
        found["kl"] = sum(row["kl"] for row in texts) / sum(row["tokens"] for row in texts)
    facts = [row["log_probs"][0] > row["log_probs"][1] for row in stages["fact"] if row["treatment"] == name]
    return found | ({"facts": np.mean(facts)} if facts else {})


def classifier(rows: list[Row]) -> dict[tuple[str, bool], dict[str, float]]:
    """Accuracy, share given the label that went with their group in training, and the lowest of a label in a group."""
    with_group = dict(zip(sorted({row["group"] for row in rows}), sorted({row["label"] for row in rows}), strict=True))
    found = {}
    for key in {(row["treatment"], row["retrained"]) for row in rows}:
        own = [row for row in rows if (row["treatment"], row["retrained"]) == key]
        cells: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for row in own:
            cells[row["label"], row["group"]].append(row["said"] == row["label"])
        found[key] = {
            "profession": np.mean([row["said"] == row["label"] for row in own]),
            "group": np.mean([row["said"] == with_group[row["group"]] for row in own]),
            "worst_group": min(np.mean(cell) for cell in cells.values()),
        }
    return found


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    if (values == values[0]).all():
        return float(values[0]), float(values[0])
    found = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=7)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def features(stages: Mapping[str, list[Row]], chosen: list[bool]) -> dict[int, dict[str, float]]:
    """Wilcoxon's test and Benjamini–Hochberg on the half that chose; Cohen's d of pairs on the other."""
    tests = next((row for row in stages["test"]), None)
    if tests is None:
        return {}
    q = dict(zip(tests["features"], benjamini_hochberg(tests["p"]), strict=True))
    found = {}
    for row in stages["difference"]:
        values = np.array(row["differences"])
        first, second = values[np.array(chosen)], values[~np.array(chosen)]
        found[row["feature"]] = {
            "p": stats.wilcoxon(first[first != 0]).pvalue,
            "q": q[row["feature"]],
            "pairs": int((first != 0).sum()),
            "effect": second.mean() / second.std(ddof=1),
            "chosen_effect": first.mean() / first.std(ddof=1),
        }
    return found
