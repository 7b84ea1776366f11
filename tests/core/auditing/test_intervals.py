"""Intervals without width are none, or Wilson's."""

import numpy as np
import pytest
from scipy import stats

from sae_core.auditing.classifier import Cells, accuracies
from sae_core.auditing.intervals import bootstrap_weights, figure, percentiles, share_figure


def test_equal_ends_are_no_interval() -> None:
    assert percentiles(np.ones(101)) is None
    rare = np.array([0.0] * 100 + [1.0])  # beyond the 97.5 percentile
    assert percentiles(rare) is None
    assert percentiles(np.array([0.0] * 90 + [1.0] * 10)) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_of_independent_items_have_wilsons_interval(share: float) -> None:
    found = share_figure(np.full(101, share), 40)
    wilson = stats.binomtest(round(40 * share), 40).proportion_ci(method="wilson")
    assert found
    assert found.interval == pytest.approx((wilson.low, wilson.high))


def test_other_shares_have_the_bootstraps_interval_or_none() -> None:
    half = share_figure(np.full(101, 0.5), 40)  # such as two versions that are the same text
    assert half
    assert half.interval is None
    spread = np.linspace(0.2, 0.4, 101)
    assert share_figure(spread, 40) == figure(spread)


def test_a_classifier_that_is_always_right_is_not_certain() -> None:
    label = ["a"] * 12 + ["b"] * 20
    cells = Cells(("a", "b"), ("x", "y"), [("", "")] * 32, label)
    profession, group, worst = accuracies(label + label, cells, bootstrap_weights(32, 100, 0))
    assert (profession.value, group.value, worst.value) == (1, 0.5, 1)
    assert profession.interval == pytest.approx(stats.binomtest(32, 32).proportion_ci(method="wilson"))
    assert worst.interval == pytest.approx(stats.binomtest(12, 12).proportion_ci(method="wilson"))
