import numpy as np
import pytest
import torch

from sae_core.errors import SAEError
from sae_core.evaluation import reconstruction
from sae_core.evaluation.predictions import ce_recovered
from sae_core.evaluation.reconstruction import ReconstructionSums, explained_variance, mse
from sae_core.evaluation.resampling import REPLICATES, ResampledSums, interval, poisson_weights, resample_features

TOKENS, WIDTH = 20, 4


def text(random, sequences):
    """Sequence numbers, activations and errors whose size varies from sequence to sequence, as text's does."""
    shape = sequences, TOKENS, WIDTH
    difficulty = random.lognormal(sigma=0.3, size=(sequences, 1, 1))
    y = random.normal(size=(sequences, 1, WIDTH)) + random.normal(size=shape)
    error = 0.5 * difficulty * random.normal(size=shape)
    number = np.repeat(np.arange(sequences), TOKENS)
    return (torch.from_numpy(number), *(torch.tensor(a.reshape(-1, WIDTH)) for a in (y, error)))


TRUE_MSE = WIDTH * 0.25 * np.exp(2 * 0.3**2)  # E lognormal² = exp(2σ²)
TRUE_EXPLAINED = 1 - TRUE_MSE / (2 * WIDTH)


def summed(sequence, y, error, *, seed=0, batch=10**9):
    sums = ReconstructionSums(seed)
    for start in range(0, len(y), batch):
        part = slice(start, start + batch)
        sums.compare(sequence[part], y[part], y[part] - error[part], torch.zeros(len(y[part]), 1))
    return sums


def test_weights_are_poisson_draws_of_the_seed_and_the_sequence():
    weights = poisson_weights(3, range(2000))
    assert weights.shape == (1 + REPLICATES, 2000)
    assert (weights[0] == 1).all()
    assert float(weights[1:].mean()) == pytest.approx(1, abs=0.01)
    assert float(weights[1:].var()) == pytest.approx(1, abs=0.02)
    assert (poisson_weights(3, [7, 5]) == weights[:, [7, 5]]).all()
    assert (poisson_weights(4, [7, 5]) != weights[:, [7, 5]]).any()


def test_sums_are_those_of_the_replicates_held_in_memory():
    random = np.random.default_rng(0)
    sequence = torch.from_numpy(np.sort(random.integers(50, size=300)))
    value = torch.from_numpy(random.normal(size=(300, 3)))
    sums = ResampledSums(7)
    for part in (slice(0, 11), slice(11, 11), slice(11, 200), slice(200, 300)):
        sums.add(sequence[part], value=value[part])
    assert sums.sequences == len(sequence.unique())
    assert sums.tokens == 300
    for row in (0, 1, REPLICATES):
        drawn = [np.random.default_rng((7, number)).poisson(1, REPLICATES) for number in sequence.tolist()]
        times = [1 if row == 0 else int(counts[row - 1]) for counts in drawn]
        repeated = value.repeat_interleave(torch.tensor(times), dim=0)
        assert int(sums.totals["tokens"][row]) == len(repeated)
        assert sums.mean("value")[row].tolist() == pytest.approx(repeated.mean(dim=0).tolist())


def test_a_95_percent_interval_holds_the_truth_in_about_95_percent_of_samples():
    """Drawing tokens one by one, as if a sequence's were independent, would hold it in half of them."""
    held = []
    for trial in range(150):
        sums = summed(*text(np.random.default_rng(trial), 100), seed=trial)
        for metric, truth in ((mse, TRUE_MSE), (explained_variance, TRUE_EXPLAINED)):
            low, high = sums.interval(metric(sums))
            held.append(low <= truth <= high)
    assert 0.89 < np.mean(held) < 0.985


def test_an_interval_shrinks_as_the_root_of_the_number_of_sequences():
    widths = []
    for sequences in (100, 1600):
        sums = summed(*text(np.random.default_rng(1), sequences))
        low, high = sums.interval(explained_variance(sums))
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_a_large_mean_does_not_cancel():
    """As in a residual stream, where the mean is hundreds of times the deviation from it."""
    sequence, y, error = text(np.random.default_rng(0), 40)
    small = summed(sequence, y, error)
    large = summed(sequence, y + 1e7, error, batch=30)
    assert explained_variance(large).tolist() == pytest.approx(explained_variance(small).tolist(), rel=1e-6)
    assert large.mean_activation().tolist() == pytest.approx((y + 1e7).mean(dim=0).tolist(), rel=1e-12)


def test_activations_that_never_vary_are_refused():
    y = torch.full((50, 3), 0.1)
    sums = ReconstructionSums(0)
    for part in (y[:7], y[7:]):
        sums.compare(torch.zeros(len(part), dtype=torch.int64), part, part, part)
    with pytest.raises(SAEError, match="same on every token"):
        explained_variance(sums)


def test_replicates_without_a_token_are_left_out():
    """Of two sequences, one replicate in seven draws neither."""
    sums = ResampledSums(0)
    sums.add(torch.tensor([4, 9]), value=torch.tensor([1.0, 3.0]))
    assert sums.mean("value").isnan().any()
    assert sums.interval(sums.mean("value")) == (1, 3)


def test_there_is_no_interval_of_one_sequence_or_of_nan():
    sums = ResampledSums(0)
    sums.add(torch.tensor([4, 4]), value=torch.tensor([1.0, 3.0]))
    sums.add(torch.tensor([4]), value=torch.tensor([2.0]))
    assert sums.interval(sums.mean("value")) is None
    assert interval(torch.tensor([1.0, float("inf"), 2.0])) is None
    assert interval(torch.tensor([])) is None


def test_an_ablation_that_costs_nothing_leaves_nothing_to_recover():
    sums = ResampledSums(0)
    same = torch.rand(6)
    sums.add(torch.arange(6), clean=same, sae=same + 1, mean_ablated=same)
    assert ce_recovered(sums, "mean_ablated").isnan().all()
    assert sums.interval(ce_recovered(sums, "mean_ablated")) is None


def test_features_are_drawn_with_replacement():
    """300 of 1000 are of a kind: their number in a replicate is binomial."""
    values = resample_features(np.arange(1000) < 300, seed=0)
    assert len(values) == 1 + REPLICATES
    assert values[0] == 300
    assert float(values[1:].mean()) == pytest.approx(300, abs=4)
    assert float(values[1:].std()) == pytest.approx((1000 * 0.3 * 0.7) ** 0.5, rel=0.2)
    assert (resample_features(np.arange(1000) < 300, seed=0) == values).all()
    assert (resample_features(np.zeros(9), seed=0) == 0).all()


def test_every_reconstruction_metric_gives_a_value_for_each_replicate():
    sums = summed(*text(np.random.default_rng(0), 5))
    assert all(metric(sums).shape == (1 + REPLICATES,) for metric in reconstruction.METRICS.values())
