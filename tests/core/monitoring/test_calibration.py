"""Thresholds from benign texts, and drift away from them."""

import numpy as np
import pytest
from scipy import stats

from sae_core.errors import MonitorError, TooLittleText
from sae_core.monitoring import calibrate, calibration_of, drift, shared_texts, suspects, texts_needed
from sae_core.monitoring.calibration import smallest_fpr


def test_a_threshold_is_an_order_statistic() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1000.0))
    found = calibrate(scores, 0.01)
    assert found.threshold == 990  # nine above it: the next text is with a probability of 10 / 1001
    assert (found.exceeding, found.texts, found.rate) == (9, 1000, 0.009)
    assert found.interval == pytest.approx((stats.beta.ppf(0.025, 9, 992), stats.beta.ppf(0.975, 10, 991)))
    np.testing.assert_array_equal(found.scores, np.arange(1000))
    by_hand = calibration_of(989.5, scores, 0.01)
    assert (by_hand.exceeding, by_hand.threshold) == (10, 989.5)


def test_new_texts_exceed_a_threshold_as_rarely_as_it_says() -> None:
    generator = np.random.default_rng(1)
    rates = [1 - stats.norm.cdf(calibrate(generator.normal(size=299), 0.01).threshold) for _ in range(2000)]
    assert 0.0085 < np.mean(rates) <= 0.0101


def test_scores_that_tie_do_not_exceed() -> None:
    found = calibrate(np.concatenate([np.zeros(395), np.full(5, 2.0)]), 0.01)
    assert (found.threshold, found.exceeding) == (2.0, 0)
    assert calibrate(np.concatenate([np.zeros(397), [1.0, 2.0, 2.0]]), 0.01).threshold == 0.0


@pytest.mark.parametrize(("fpr", "needed"), [(0.01, 299), (0.001, 2995), (0.05, 59), (0.5, 5)])
def test_a_rate_needs_texts(fpr: float, needed: int) -> None:
    assert texts_needed(fpr) == needed
    assert (1 - fpr) ** needed <= 0.05 < (1 - fpr) ** (needed - 1)
    calibrate(np.arange(float(needed)), fpr)
    with pytest.raises(TooLittleText, match=f"Give {needed:,} texts"):
        calibrate(np.arange(float(needed - 1)), fpr)
    least = smallest_fpr(needed - 1)
    calibrate(np.arange(float(needed - 1)), least)
    with pytest.raises(TooLittleText):
        calibrate(np.arange(float(needed - 1)), least - 1e-4)


def test_what_is_no_rate_or_score_is_refused() -> None:
    for rate in (0, 1, -1, float("nan")):
        with pytest.raises(MonitorError, match="between 0 and 1"):
            calibrate(np.zeros(500), rate)
    with pytest.raises(MonitorError, match="finite"):
        calibrate(np.full(500, np.nan), 0.01)
    with pytest.raises(TooLittleText, match=r"0 benign texts .* calibration\.$"):
        calibrate(np.zeros(0), 0.01)


def test_positives_among_the_benign_are_found() -> None:
    positive, benign = ["Kill them", "Hello", "hello"], ["a b", "kill  THEM", "HELLO"]
    assert shared_texts(positive, benign) == [(0, 1), (1, 2)]
    assert suspects(np.array([1.0, 2, 3]), np.array([0.0, 2.5, 2, 9])) == [3, 1]
    assert suspects(np.zeros(3), np.arange(30.0)) == [*range(29, 0, -1)]


def test_drift_is_tested() -> None:
    generator = np.random.default_rng(0)
    calibration = calibrate(generator.normal(size=500), 0.01)
    same, moved = generator.normal(size=400), generator.normal(0.4, 1, 400)
    assert not drift(calibration, same).has_drifted
    found = drift(calibration, moved)
    assert found.has_drifted
    expected = stats.ks_2samp(calibration.scores, moved)
    assert (found.statistic, found.p_value) == (expected.statistic, expected.pvalue)
    above = int((moved > calibration.threshold).sum())
    assert (found.alerts.count, found.texts) == (above, 400)
    assert found.alert_p_value == stats.binomtest(above, 400, 0.01).pvalue
    assert drift(calibration, moved, 0.0).alerts.count == (moved > 0).sum()
    bursts = np.concatenate([calibration.scores[:480], np.full(20, calibration.threshold + 1)])
    assert drift(calibration, bursts).alert_p_value < 0.005
    assert drift(calibration, bursts).p_value > 0.005
    assert drift(calibration, bursts).has_drifted
    with pytest.raises(MonitorError, match="no new scores"):
        drift(calibration, np.zeros(0))
