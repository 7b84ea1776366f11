"""Candidates of a monitor on made-up texts, beside scikit-learn and plain counting."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from sae_core.errors import MonitorError, TooLittleText
from sae_core.models import LanguageModel
from sae_core.monitoring import (
    Comparison,
    Examples,
    Followed,
    Monitor,
    Source,
    calibrate,
    cautions,
    compare_candidates,
    follow_texts,
    score_reading,
    score_texts,
)
from sae_core.monitoring.fits import boundary_of, feature_aurocs, fit_logistic, most_different
from sae_core.progress import Progress
from sae_core.readings import Part, Reading, Text, pool_features, read_texts
from sae_core.readings.reading import RESIDUAL_POOLS
from sae_core.saes import SAE
from tests.core.interventions.conftest import HOOK, random_sae
from tests.core.test_chat import CHATML, chat_model

pytestmark = pytest.mark.slow

SIGNAL, ABSENT, D_IN, D_SAE = 7, 9, 32, 48
SPLITS = np.array(["train"] * 3 + ["calibration", "test"])


def examples(seed: int, texts: int, *, positive: bool, clear: float = 0.5, shift: float = 0.0) -> Examples:
    """Texts of 4 to 12 tokens. In positive ones feature 7 is often active, feature 9 never, and the activations point
    along the first dimension."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 13, texts)
    tokens = int(lengths.sum())
    features = np.where(generator.random((tokens, D_SAE)) < 0.05, generator.random((tokens, D_SAE)), 0)
    raw = generator.normal(size=(texts, D_IN))
    if positive:
        features[:, SIGNAL] = np.where(generator.random(tokens) < clear, 1 + generator.random(tokens), 0)
        features[:, ABSENT] = 0
        raw[:, 0] += 4 * clear
    features[:, SIGNAL] += shift * (generator.random(tokens) < 0.5)
    reading = Reading(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        token_ids=np.zeros(tokens, np.int32),
        parts=np.full(tokens, Part.TEXT, np.uint8),
        features=sparse.csr_array(features.astype(np.float32)),
        residual={pool: raw.astype(np.float32) for pool in RESIDUAL_POOLS},
        truncated=np.zeros(texts, bool),
    )
    vocabulary = ["bad", "good", "day", "night", "sun"] if positive else ["good", "day", "night", "sun", "moon"]
    words = [" ".join([*generator.choice(vocabulary, 5), f"n{seed}x{number}"]) for number in range(texts)]
    return Examples(reading, words, [str(SPLITS[number % 5]) for number in range(texts)])


def by_reading(monitors: Sequence[Monitor], side: Examples, progress: Progress) -> list[Followed]:
    """Scores of made-up readings, which no model can score; on their way the texts were a little above."""
    progress(len(side), len(side))
    scores = [score_reading(monitor, side.reading) for monitor in monitors]
    return [Followed(own, own + np.abs(own) / 10) for own in scores]


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(random_sae("jumprelu"), HOOK, "tiny", "a" * 64, "model", "b" * 64, frozenset({1, 2}))


@pytest.fixture(scope="module")
def sides() -> tuple[Examples, Examples]:
    return examples(0, 200, positive=True), examples(1, 500, positive=False)


@pytest.fixture(scope="module")
def compared(sides: tuple[Examples, Examples], source: Source) -> Comparison:
    abroad = examples(2, 100, positive=True), examples(3, 150, positive=False, shift=1.2)
    return compare_candidates(*sides, source, by_reading, name="bad", fpr=0.05, elsewhere=abroad)


def test_every_candidate_is_measured_on_the_test_texts(
    compared: Comparison, sides: tuple[Examples, Examples], source: Source
) -> None:
    names = [candidate.name for candidate in compared.candidates]
    assert names == ["feature", "features-10", "probe-mean", "probe-max", "diffmean", "words", "length"]
    for candidate in compared.candidates:
        assert (candidate.test.positive, candidate.test.benign) == (40, 100)
        assert candidate.calibration.texts == 100
        assert (candidate.monitor is None) == (candidate.name in ("words", "length"))
        assert candidate.is_baseline == (candidate.name not in ("feature", "features-10"))
        if candidate.monitor is None:
            assert candidate.live is candidate.live_test is None
            continue
        assert candidate.monitor.threshold == candidate.calibration.threshold
        positive, benign = (score_reading(candidate.monitor, side.part("test").reading) for side in sides)
        labels = np.repeat([1, 0], [40, 100])
        assert candidate.test.auroc == pytest.approx(roc_auc_score(labels, np.concatenate([positive, benign])))
        assert candidate.test.recall.count == (positive > candidate.monitor.threshold).sum()
        assert candidate.test.false_positives.count == (benign > candidate.monitor.threshold).sum()
        calibration = score_reading(candidate.monitor, sides[1].part("calibration").reading)
        assert candidate.calibration.exceeding == (calibration > candidate.monitor.threshold).sum() <= 5
        np.testing.assert_allclose(candidate.calibration.scores, np.sort(calibration))
        live, (on_positive, on_benign) = candidate.monitor.live, (own + np.abs(own) / 10 for own in (positive, benign))
        assert live is candidate.live is not None and candidate.live_test is not None
        assert live.threshold == calibrate(calibration + np.abs(calibration) / 10, 0.05).threshold
        assert live.threshold >= candidate.monitor.threshold
        assert candidate.live_test.recall.count == (on_positive > live.threshold).sum()
        assert candidate.live_test.false_positives.count == (on_benign > live.threshold).sum()
        validation = np.concatenate(
            [score_reading(candidate.monitor, sides[0].part("calibration").reading), calibration]
        )
        assert candidate.validation_auroc == pytest.approx(roc_auc_score(labels, validation))
    by_auroc = {candidate.name: candidate.validation_auroc for candidate in compared.candidates}
    assert compared.best_features == max(("feature", "features-10"), key=by_auroc.__getitem__)
    assert compared.best_baseline == max(
        ("probe-mean", "probe-max", "diffmean", "words", "length"), key=by_auroc.__getitem__
    )
    monitor = compared.candidate("feature").monitor
    assert monitor is not None
    assert (monitor.name, monitor.model_sha256, monitor.special_token_ids) == ("bad", "b" * 64, {1, 2})


def test_detectors_are_those_of_plain_code(
    compared: Comparison, sides: tuple[Examples, Examples], source: Source
) -> None:
    train = [side.part("train") for side in sides]
    labels = np.repeat([1, 0], [len(side) for side in train])
    pooled = np.concatenate([pool_features(side.reading, "max").toarray() for side in train])
    aurocs = [roc_auc_score(labels, pooled[:, feature]) for feature in range(D_SAE)]
    np.testing.assert_allclose(feature_aurocs(pooled, labels), aurocs)
    single, several, direction = (
        compared.candidate(name).monitor.detector  # type: ignore[union-attr]
        for name in ("feature", "features-10", "diffmean")
    )
    assert single.features == (SIGNAL,) == (int(np.argmax(aurocs)),)
    assert SIGNAL in several.features and len(several.features) == 10
    assert several.weights[several.features.index(SIGNAL)] > 0
    torch.testing.assert_close(several.encoder.W_dec, source.sae.W_dec[list(several.features)])
    means = [side.reading.residual["mean"].mean(axis=0) for side in train]
    np.testing.assert_allclose(direction.direction, means[0] - means[1], rtol=1e-4, atol=1e-6)
    differences = np.abs(pooled[labels == 1].mean(axis=0) - pooled[labels == 0].mean(axis=0))
    assert set(most_different(pooled, labels, 2)) == set(np.argsort(differences)[-2:])


def test_a_probe_is_scikit_learns_in_units_of_the_activations() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 0], 60)
    x = generator.normal(3, [1, 20, 0.1], size=(120, 3)) + np.array([1, 0, 0.02]) * labels[:, None]
    weights, bias = fit_logistic(x, labels)
    scaled = StandardScaler().fit_transform(x)
    strengths = np.logspace(-5, 1, 7)
    expected = [
        LogisticRegression(C=strength, max_iter=1000).fit(scaled, labels).decision_function(scaled)
        for strength in strengths
    ]
    assert min(np.abs(x @ weights + bias - scores).max() for scores in expected) < 1e-6


def test_nothing_of_the_test_texts_enters_the_monitors(
    compared: Comparison, sides: tuple[Examples, Examples], source: Source
) -> None:
    changed = [
        replace(
            side,
            reading=replace(
                side.reading,
                residual={
                    pool: np.where(np.array(side.splits)[:, None] == "test", 99, rows).astype(np.float32)
                    for pool, rows in side.reading.residual.items()
                },
            ),
        )
        for side in sides
    ]
    again = compare_candidates(*changed, source, by_reading, name="bad", fpr=0.05)
    for candidate in compared.candidates:
        other = again.candidate(candidate.name)
        assert other.calibration.threshold == candidate.calibration.threshold
        assert other.validation_auroc == candidate.validation_auroc


def test_what_a_person_has_to_know_is_said(
    compared: Comparison, sides: tuple[Examples, Examples], source: Source
) -> None:
    said = cautions(compared, "feature")
    assert any("does not hold on texts from elsewhere" in sentence and "5.0%" in sentence for sentence in said)
    [abroad] = [compared.candidate("feature").out_of_distribution]
    assert abroad is not None and abroad.benign == 150 and abroad.false_positives.value > 0.3
    weak = examples(0, 200, positive=True, clear=0.06), sides[1]
    weak[0].reading.residual["mean"][:, 0] += 5
    strong = compare_candidates(*weak, source, by_reading, name="weak", fpr=0.05)
    assert strong.baseline_wins and not strong.chosen.startswith("feature")
    assert strong.best_baseline == "probe-mean" or strong.best_baseline == "diffmean" or strong.best_baseline == "words"
    assert any("does better than the best SAE features" in sentence for sentence in cautions(strong))
    length = cautions(strong, "length")
    assert any("no better than chance" in sentence for sentence in length)


def test_texts_on_both_sides_are_left_out(sides: tuple[Examples, Examples], source: Source) -> None:
    positive, benign = sides
    mixed = replace(benign, texts=[positive.texts[4].upper(), *benign.texts[1:]])
    found = compare_candidates(positive, mixed, source, by_reading, name="bad", fpr=0.05)
    assert found.shared == ((4, 0),)
    assert found.candidate("feature").test.positive == 39
    assert any("1 text is both positive and benign" in sentence for sentence in cautions(found))
    poisoned = positive.choose([*range(200), *range(0, 200, 4)])
    relabelled = Examples(
        poisoned.reading, [f"{text} again" for text in poisoned.texts], ["calibration"] * len(poisoned)
    )
    joined = Examples(
        _joined(benign.reading, relabelled.reading),
        [*benign.texts, *relabelled.texts],
        [*benign.splits, *relabelled.splits],
    )
    found = compare_candidates(positive, joined, source, by_reading, name="bad", fpr=0.05)
    of_feature = found.candidate("feature")
    assert 10 < len(of_feature.suspects) <= 250 and min(of_feature.suspects) >= 500
    said = f"{len(of_feature.suspects)} of the 350 benign texts for calibration score above half of the positive ones"
    assert any(said in sentence for sentence in cautions(found, "feature"))


def _joined(*readings: Reading) -> Reading:
    from sae_core.readings.reading import join_readings

    return join_readings(readings)


def test_too_little_text_is_refused(sides: tuple[Examples, Examples], source: Source) -> None:
    positive, benign = sides
    with pytest.raises(TooLittleText, match=r"100 benign texts .* Give 299 texts for calibration, or ask for"):
        compare_candidates(positive, benign, source, by_reading, name="bad", fpr=0.01)
    with pytest.raises(MonitorError, match="3 positive texts are too few for training"):
        compare_candidates(positive.choose(range(5)), benign, source, by_reading, name="bad", fpr=0.05)
    with pytest.raises(MonitorError, match="0 positive texts"):
        compare_candidates(positive.choose([]), benign, source, by_reading, name="bad", fpr=0.05)
    with pytest.raises(MonitorError, match="no texts of their own"):
        compare_candidates(positive, benign, source, by_reading, name="bad", fpr=0.05, elsewhere=(positive, benign))


def test_a_topk_gets_the_boundary_of_its_tokens(sides: tuple[Examples, Examples], source: Source) -> None:
    dense = sides[1].reading.features.toarray()
    smallest = [row[row > 0].min() for row in dense if (row > 0).any()]
    assert boundary_of(sides[1].reading) == pytest.approx(np.mean(smallest))
    found = compare_candidates(*sides, replace(source, sae=random_sae("topk")), by_reading, name="bad", fpr=0.05)
    monitor = found.candidate("feature").monitor
    assert monitor is not None and monitor.detector.definition == "decoupled"  # type: ignore[union-attr]
    train = sides[1].part("train").reading
    assert monitor.detector.encoder.threshold.item() == pytest.approx(boundary_of(train))  # type: ignore[union-attr]


def test_the_last_token_has_a_probe_of_its_own(sides: tuple[Examples, Examples], source: Source) -> None:
    found = compare_candidates(*sides, source, by_reading, name="bad", fpr=0.05, tokens="last")
    probe = found.candidate("probe-last").monitor
    assert probe is not None and probe.tokens == "last"
    assert "probe-mean" not in [candidate.name for candidate in found.candidates]


def test_every_candidate_watches_the_tokens_that_are_chosen(tmp_path: Path) -> None:
    """Only what the assistant says tells the sides apart."""
    model, sae = chat_model(tmp_path / "model", CHATML), random_sae("jumprelu")
    sides = chats(model, sae, "a happy king at the fair"), chats(model, sae, "a sad city in the winter")
    follow = partial(by_model, model)
    found = {
        tokens: compare_candidates(*sides, Source(sae, HOOK), follow, name="m", fpr=0.2, tokens=tokens)
        for tokens in ("assistant", "user")
    }
    for name in ("probe-mean", "probe-max", "diffmean"):
        candidate = found["assistant"].candidate(name)
        assert candidate.test.auroc == 1.0
        assert candidate.monitor is not None and candidate.monitor.tokens == "assistant"
        of_user = found["user"].candidate(name)
        assert of_user.monitor is not None and of_user.monitor.tokens == "user"
        assert of_user.test.auroc_interval[0] <= 0.5
    direction = found["assistant"].candidate("diffmean").monitor
    assert direction is not None
    means = [side.part("train").reading.residual["assistant-mean"].mean(axis=0) for side in sides]
    np.testing.assert_allclose(direction.detector.direction, means[0] - means[1], rtol=1e-4, atol=1e-6)  # type: ignore[union-attr]
    with pytest.raises(MonitorError, match="None of the benign texts has words of the assistant"):
        plain = replace(sides[1], reading=replace(sides[1].reading, parts=np.zeros_like(sides[1].reading.parts)))
        compare_candidates(sides[0], plain, Source(sae, HOOK), follow, name="m", fpr=0.2, tokens="assistant")


def test_a_topk_is_calibrated_on_the_scores_that_a_check_gives(tmp_path: Path) -> None:
    """A reading has the whole TopK's activations, in which the monitor's features, decoupled, are not active alike."""
    model, sae = chat_model(tmp_path / "model", CHATML), random_sae("topk")
    sides = chats(model, sae, "a happy king at the fair"), chats(model, sae, "a sad city in the winter")
    found = compare_candidates(*sides, Source(sae, HOOK), partial(by_model, model), name="m", fpr=0.2)
    texts = sides[1].part("calibration").as_read
    for name in ("feature", "features-10", "probe-mean", "probe-max", "diffmean"):
        monitor = found.candidate(name).monitor
        assert monitor is not None and monitor.calibration is not None and monitor.live is not None
        scores = [read.scores[0] for read in score_texts(model, [monitor], texts)]
        np.testing.assert_array_equal(monitor.calibration.scores, np.sort([own.score for own in scores]))
        np.testing.assert_array_equal(monitor.live.scores, np.sort([own.running.max() for own in scores]))
        assert monitor.calibration.exceeding == sum(own.alert for own in scores) <= 0.2 * len(texts)
    ten = found.candidate("features-10").monitor
    assert ten is not None and ten.calibration is not None
    by_whole = np.sort(score_reading(ten, sides[1].part("calibration").reading))
    assert np.abs(by_whole - ten.calibration.scores).max() > 0.01


def chats(model: LanguageModel, sae: SAE, answer: str) -> Examples:
    """Chats with answers that say something, and the same questions."""
    turns: list[Text] = [
        [
            {"role": "user", "content": f"What is the {number}th thing"},
            {"role": "assistant", "content": f"{answer} {number * 7 % 31}"},
        ]
        for number in range(100)
    ]
    words = [f"What is the {number}th thing {answer}" for number in range(100)]
    reading = read_texts(model, sae, turns, hook=HOOK)
    return Examples(reading, words, [str(SPLITS[number % 5]) for number in range(100)], turns)


def by_model(model: LanguageModel, monitors: Sequence[Monitor], side: Examples, progress: Progress) -> list[Followed]:
    return follow_texts(model, monitors, side.as_read, progress=progress)
