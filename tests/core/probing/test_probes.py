"""k-sparse probes give what sae-bench's own code gives of the same arrays (tests/fixtures/probing/make.py)."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sae_core.probing.probes import KS, Task, largest_differences, make_tasks, probe_all, probe_columns

SAE_BENCH = Path(__file__).parents[2] / "fixtures" / "probing" / "sae_bench.npz"
CLASSES = ("art", "birds", "chess")


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("number", range(3))
def test_columns_weights_and_accuracy_are_sae_benchs(number: int, k: int) -> None:
    with np.load(SAE_BENCH) as file:
        theirs = dict(file)
    name, other = CLASSES[number], (number + 1) % 3
    x = np.concatenate([theirs[part][each] for part in ("train", "test") for each in (number, other)])
    n = len(x) // 4
    positive = np.arange(2 * n) < n
    task = Task(name, np.arange(2 * n), positive, np.arange(2 * n, 4 * n), positive)

    columns = largest_differences(x[task.train], positive, k)
    assert sorted(columns) == theirs[f"columns_{name}_{k}"].tolist()
    for columns_of in (x, sparse.csr_array(x)):
        scores = probe_columns(columns_of, task, k)
        assert ((scores > 0) == positive).mean() == pytest.approx(theirs[f"accuracy_{name}_{k}"], abs=1e-12)
        *weights, bias = theirs[f"weights_{name}_{k}"]
        expected = x[task.test][:, sorted(columns)] @ weights + bias
        assert scores == pytest.approx(expected, abs=2e-3)


def test_the_largest_difference_comes_first_and_its_sign_does_not_matter() -> None:
    x = np.array([[0, 5, 1], [0, 5, 1], [0, 1, 9], [2, 1, 9]], np.float32)
    assert largest_differences(x, np.array([True, True, False, False]), 2).tolist() == [2, 1]


def test_half_of_a_tasks_texts_are_of_its_class_and_the_rest_of_all_others() -> None:
    labels = ["a"] * 20 + ["b"] * 30 + ["c"] * 40
    held_out = np.arange(90) % 2 == 1
    tasks = make_tasks(labels, held_out, seed=0)
    assert [task.name for task in tasks] == ["a", "b", "c"]
    for task in tasks:
        for texts, positive, part in ((task.train, task.is_train, False), (task.test, task.is_test, True)):
            assert len(set(texts.tolist())) == len(texts) == 2 * positive.sum()
            assert (held_out[texts] == part).all()
            assert all((labels[text] == task.name) == own for text, own in zip(texts, positive, strict=True))
            others = [labels[text] for text in texts[~positive]]
            counts = sorted(others.count(name) for name in set(others))
            assert len(counts) == 2 and counts[1] - counts[0] <= 1
    assert all(
        (ours.train == again.train).all() for ours, again in zip(tasks, make_tasks(labels, held_out, 0), strict=True)
    )


def test_of_two_classes_one_is_probed_for() -> None:
    labels = ["no", "yes", "yes"] * 20
    (task,) = make_tasks(labels, np.arange(60) < 30, seed=0)
    assert task.name == "no" and task.is_train.sum() == task.is_test.sum() == 10


def test_all_columns_are_scaled_so_that_a_small_one_counts() -> None:
    random = np.random.default_rng(0)
    positive = np.arange(200) % 2 == 0
    x = random.normal(size=(200, 3)).astype(np.float32) * [1000, 1000, 1e-3]
    x[:, 2] += 2e-3 * positive
    task = Task("small", np.arange(100), positive[:100], np.arange(100, 200), positive[100:])
    assert ((probe_all(x, task) > 0) == task.is_test).mean() > 0.75
    plain = LogisticRegression(max_iter=1000).fit(x[:100], positive[:100])
    assert plain.score(x[100:], positive[100:]) < 0.7
