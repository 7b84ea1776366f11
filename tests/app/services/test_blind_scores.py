"""Scores of blind tests, against values computed by hand, scikit-learn and simulations."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from app.services.blind_scores import BlindAnswer, average_precision, score_intruder, score_yes_no, wilson


def answers(truth: list[int], said: list[int], confidence: list[float] | None = None) -> list[BlindAnswer]:
    sure = confidence or [None] * len(truth)
    why = ["band_3" if yes else "random" for yes in truth]
    return [BlindAnswer(*each) for each in zip(truth, said, why, sure, strict=True)]


def test_a_test_scored_by_hand() -> None:
    # 4 positives, 3 found; 4 negatives, 2 of them taken for positives.
    score = score_yes_no(answers([1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0]))
    assert score.balanced_accuracy.value == (3 / 4 + 2 / 4) / 2
    assert score.f1.value == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert score.auprc is None
    assert (score.items, score.base_rate) == (8, 0.5)
    assert (score.by_kind["band_3"].correct, score.by_kind["band_3"].items) == (3, 4)
    assert (score.by_kind["random"].correct, score.by_kind["random"].items) == (2, 4)
    assert score.by_kind["random"].share.value == 0.5


def test_wilson_against_its_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29.
    for correct, items, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(correct, items) == pytest.approx((low, high), abs=5e-5)


def test_values_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        truth = [1, 0, *random.integers(0, 2, 18).tolist()]
        said = random.integers(0, 2, 20).tolist()
        confidence = random.integers(0, 5, 20) / 4  # with ties
        score = score_yes_no(answers(truth, said, confidence.tolist()))
        assert score.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(truth, said))
        assert score.f1.value == pytest.approx(f1_score(truth, said))
        assert score.auprc is not None
        assert score.auprc.value == pytest.approx(average_precision_score(truth, confidence))


def test_a_perfect_test_of_few_items_is_not_certain() -> None:
    score = score_yes_no(answers([1] * 10 + [0] * 10, [1] * 10 + [0] * 10))
    assert score.balanced_accuracy.value == score.f1.value == 1
    assert 0.75 < score.balanced_accuracy.low < 0.9 and score.balanced_accuracy.high == 1
    assert 0.75 < score.f1.low < 0.95 and score.f1.high == 1
    never = score_yes_no(answers([1] * 10 + [0] * 10, [0] * 20))
    assert (never.balanced_accuracy.value, never.f1.value) == (0.5, 0)


def test_balanced_accuracy_cannot_see_a_label_that_says_too_much_and_f1_can() -> None:
    truth = [1] * 10 + [0] * 10
    broad = score_yes_no(answers(truth, [1] * 10 + [1] * 4 + [0] * 6))
    narrow = score_yes_no(answers(truth, [1] * 6 + [0] * 4 + [0] * 10))
    assert broad.balanced_accuracy.value == narrow.balanced_accuracy.value == 0.8
    assert broad.f1.value > narrow.f1.value


def test_intervals_hold_the_truth_in_about_95_of_100_simulated_tests() -> None:
    random = np.random.default_rng(1)
    recall, specificity = 0.8, 0.65
    truth = np.repeat([1, 0], 10)
    held = {"balanced_accuracy": 0, "f1": 0}
    expected_f1 = 2 * recall * 10 / (2 * recall * 10 + (1 - recall) * 10 + (1 - specificity) * 10)
    for _ in range(400):
        said = np.where(truth, random.random(20) < recall, random.random(20) > specificity).astype(int)
        score = score_yes_no(answers(truth.tolist(), said.tolist()))
        held["balanced_accuracy"] += (
            score.balanced_accuracy.low <= (recall + specificity) / 2 <= score.balanced_accuracy.high
        )
        held["f1"] += score.f1.low <= expected_f1 <= score.f1.high
    assert all(0.92 < times / 400 <= 1 for times in held.values()), held


def test_confident_answers_are_ranked_and_their_interval_is_over_items() -> None:
    random = np.random.default_rng(2)
    truth = [1] * 20 + [0] * 20
    confidence = np.clip(np.array(truth) * 0.4 + random.random(40) * 0.6, 0, 1)
    score = score_yes_no(answers(truth, (confidence > 0.5).astype(int).tolist(), confidence.tolist()))
    assert score.auprc is not None
    assert 0.5 < score.auprc.low < score.auprc.value < score.auprc.high <= 1
    assert average_precision(np.array(truth, bool), np.full(40, 0.5)) == 0.5


def test_intruders() -> None:
    given = [BlindAnswer(2, 2, "random"), BlindAnswer(0, 0, "near_miss"), BlindAnswer(4, 1, "near_miss")]
    score = score_intruder(given)
    assert score.accuracy.value == 2 / 3
    assert (score.accuracy.low, score.accuracy.high) == wilson(2, 3)
    assert {why: (kind.correct, kind.items) for why, kind in score.by_kind.items()} == {
        "near_miss": (1, 2),
        "random": (1, 1),
    }
    assert math.isclose(score.by_kind["near_miss"].share.value, 0.5)


def test_a_test_of_one_truth_has_no_score() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        score_yes_no(answers([1, 1], [1, 0]))
