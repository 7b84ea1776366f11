"""k-sparse probes: the k columns that differ most between two classes, and a logistic regression on them.

The method is that of Gurnee et al. 2023 ("Finding Neurons in a Haystack", arXiv:2305.01610) in the form of SAEBench
(Karvonen et al. 2025, arXiv:2503.09532; sae-bench 0.6.0, `evals/sparse_probing/probe_training.py`), to whose code the
tests hold the values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

KS = (1, 2, 5)
"""Numbers of columns that probes have."""
_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
_FOLDS = 3

Columns = Any
"""Values `[text, column]`: a numpy array or a sparse one of scipy."""


@dataclass(frozen=True)
class Task:
    """Tell the texts of one class from those of other classes. Numbers are those of texts."""

    name: str
    train: Int64[np.ndarray, " trained"]
    is_train: Bool[np.ndarray, " trained"]
    """True for the texts of the class."""
    test: Int64[np.ndarray, " tested"]
    is_test: Bool[np.ndarray, " tested"]


def make_tasks(labels: Sequence[str], held_out: Bool[np.ndarray, " text"], seed: int) -> list[Task]:
    """Return one task per class, or a single one where there are two classes, which mirror each other.

    Half of a task's texts are of its class, so that guessing scores one half; the others are drawn from all other
    classes in equal numbers, as sae-bench draws them.
    """
    random = np.random.default_rng(seed)
    names = sorted(set(labels))
    of = np.array(labels)
    tasks = []
    for name in names[: 1 if len(names) == 2 else None]:
        parts = [_balanced(of, name, np.flatnonzero(part), random) for part in (~held_out, held_out)]
        (train, is_train), (test, is_test) = parts
        tasks.append(Task(name, train, is_train, test, is_test))
    return tasks


def _balanced(
    labels: np.ndarray, name: str, texts: Int64[np.ndarray, " part"], random: np.random.Generator
) -> tuple[Int64[np.ndarray, " chosen"], Bool[np.ndarray, " chosen"]]:
    """Return as many texts of a class as of the others together, and which are of it."""
    own = random.permutation(texts[labels[texts] == name])
    others = [random.permutation(texts[labels[texts] == other]) for other in sorted(set(labels) - {name})]
    each = -(-len(own) // len(others))
    drawn = random.permutation(np.concatenate([other[:each] for other in others]))
    size = min(len(own), len(drawn))
    chosen = np.concatenate([own[:size], drawn[:size]])
    return chosen, np.arange(2 * size) < size


def largest_differences(x: Columns, positive: Bool[np.ndarray, " text"], k: int) -> Int64[np.ndarray, " k"]:
    """Return the k columns with the largest |mean of the positive rows − mean of the others|, the largest first."""
    difference = np.asarray(x[positive].mean(axis=0) - x[~positive].mean(axis=0)).ravel()
    return np.argsort(-np.abs(difference), kind="stable")[:k]


def probe_columns(x: Columns, task: Task, k: int) -> Float64[np.ndarray, " tested"]:
    """Return the scores of a task's test texts by the k columns that differ most in training; above 0 is the class."""
    return score_columns(x, task, largest_differences(x[task.train], task.is_train, k))


def score_columns(x: Columns, task: Task, columns: Int64[np.ndarray, " k"]) -> Float64[np.ndarray, " tested"]:
    """Return the scores of a task's test texts by a logistic regression on these columns; above 0 is the class.

    It has scikit-learn's penalty of C = 1 on columns as they are, and the class weighs as much as all others, as in
    sae-bench.
    """
    chosen = x[:, columns]
    dense = chosen.toarray() if sparse.issparse(chosen) else chosen
    regression = LogisticRegression(max_iter=1000, class_weight="balanced")
    probe = regression.fit(dense[task.train], task.is_train)
    scores: Float64[np.ndarray, " tested"] = probe.decision_function(dense[task.test])
    return scores


def probe_all(x: Float32[np.ndarray, "text column"], task: Task) -> Float64[np.ndarray, " tested"]:
    """Return the same by all columns, each scaled to variance 1.

    A baseline deserves its best: C is the one of four with the largest AUROC in three-fold cross-validation on the
    training texts.
    """
    strengths = {"logisticregression__C": _STRENGTHS}
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe = GridSearchCV(pipeline, strengths, cv=_FOLDS, scoring="roc_auc").fit(x[task.train], task.is_train)
    scores: Float64[np.ndarray, " tested"] = probe.decision_function(x[task.test])
    return scores
