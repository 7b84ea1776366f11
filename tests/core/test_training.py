import math
import random

import pytest
import torch

from sae_core import training
from sae_core.errors import CheckpointError, SAEError, TrainingDiverged
from sae_core.running_variance import RunningVariance
from sae_core.saes import JumpReLU
from sae_core.training import TrainingConfig, train
from sae_core.training_state import TrainingState, saved_steps

D_IN, FEATURES = 16, 40


class Synthetic:
    """Activations that are sums of 3 of 40 sparse directions, with a mean and a scale of their own."""

    d_in = D_IN

    def __init__(self, tokens=4096, poisoned_batch=None):
        generator = torch.Generator().manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(FEATURES, D_IN, generator=generator), dim=1)
        chosen = torch.rand(tokens, FEATURES, generator=generator).topk(3, dim=1).indices
        f = torch.zeros(tokens, FEATURES).scatter(1, chosen, 1 + torch.rand(tokens, 3, generator=generator))
        self.x = 10 * (f @ directions) + 5
        self.poisoned_batch = poisoned_batch

    def batches(self, batch_size, *, seed, skip=0):
        per_epoch = len(self.x) // batch_size
        while True:
            epoch, batch = divmod(skip, per_epoch)
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1000 * seed + epoch))
            x = self.x[order[batch * batch_size : (batch + 1) * batch_size]]
            yield x * math.nan if skip == self.poisoned_batch else x
            skip += 1

    def validation(self, batch_size):
        yield from Synthetic(tokens=2048).x.split(batch_size)


def small(**options):
    defaults = {"d_sae": 64, "k": 3, "batch_size": 128, "samples": 128 * 60, "lr": 3e-3}
    return TrainingConfig(**(defaults | options))


@pytest.fixture(autouse=True)
def tight_intervals(monkeypatch):
    monkeypatch.setattr(training, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(training, "START_SAMPLE", 1024)


class Recorder:
    """A progress that keeps what it is told, and stops the run where asked."""

    def __init__(self, stop_at=None):
        self.metrics = []
        self.done = []
        self.stop_at = stop_at

    def __call__(self, done, total, metrics=None, /):
        self.done.append(done)
        if metrics is not None:
            self.metrics.append(dict(metrics))
        if self.stop_at is not None and done >= self.stop_at:
            raise KeyboardInterrupt


def explained(sae, x):
    with torch.no_grad():
        return float(1 - (x - sae(x)).square().sum() / (x - x.mean(dim=0)).square().sum())


@pytest.mark.parametrize("architecture", ["standard", "topk", "batchtopk"])
def test_training_learns_and_returns_the_inference_form(tmp_path, architecture):
    recorder, source = Recorder(), Synthetic()
    config = small(architecture=architecture, samples=128 * 400, l1_coefficient=1.0)
    sae = train(config, source, tmp_path, device="cpu", progress=recorder)
    assert explained(sae, source.x) > 0.8
    assert sae.input_scale == 1
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5, rtol=0)
    assert recorder.done == sorted(recorder.done)
    assert recorder.done[-1] == config.samples
    assert recorder.metrics[0].keys() == {
        "loss",
        "explained_variance",
        "l0",
        "dead_fraction",
        "learning_rate",
        "samples_per_s",
    }
    assert recorder.metrics[-1]["explained_variance"] > recorder.metrics[0]["explained_variance"]
    assert recorder.metrics[-1]["explained_variance"] == pytest.approx(explained(sae, source.x), abs=0.05)


def test_the_learned_threshold_keeps_l0_near_k_on_held_out_activations(tmp_path):
    recorder, source = Recorder(), Synthetic()
    sae = train(small(samples=128 * 400), source, tmp_path, device="cpu", progress=recorder)
    assert isinstance(sae, JumpReLU)
    held_out = torch.cat(list(source.validation(512)))
    l0 = float((sae.encode(held_out) > 0).sum(dim=1).float().mean())
    assert l0 == pytest.approx(3, rel=0.05)
    assert all(metrics["l0"] == pytest.approx(3, rel=0.05) for metrics in recorder.metrics)


@pytest.mark.parametrize("architecture", ["standard", "batchtopk"])
def test_a_run_stopped_anywhere_ends_with_the_same_bits(tmp_path, architecture):
    config = small(architecture=architecture, checkpoint_every=7, dead_after=256)
    of_whole, of_resumed = Recorder(), Recorder()
    whole = train(config, Synthetic(), tmp_path / "whole", device="cpu", progress=of_whole)
    stops = random.Random(0)
    stopped_at = 0
    while stopped_at < config.samples:
        stopped_at = min(config.samples, stopped_at + 128 * stops.randint(5, 25))
        with pytest.raises(KeyboardInterrupt):
            train(config, Synthetic(), tmp_path / "stopped", device="cpu", progress=Recorder(stop_at=stopped_at))
    newest = tmp_path / "stopped" / "step-000000060.safetensors"
    newest.unlink()  # so that the last steps are taken once more, from step 56
    resumed = train(config, Synthetic(), tmp_path / "stopped", device="cpu", progress=of_resumed)
    for metrics in (of_whole.metrics[-1], of_resumed.metrics[-1]):
        del metrics["samples_per_s"]
    assert of_whole.metrics[-1] == of_resumed.metrics[-1]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert saved_steps(tmp_path / "stopped") == saved_steps(tmp_path / "whole") == [56, 60]


def test_a_finished_run_returns_at_once(tmp_path):
    config = small()
    first = train(config, Synthetic(), tmp_path, device="cpu")
    recorder = Recorder()
    again = train(config, Synthetic(), tmp_path, device="cpu", progress=recorder)
    assert recorder.done == [config.samples]
    assert torch.equal(first.W_dec, again.W_dec)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    config = small(checkpoint_every=20)
    whole = train(config, Synthetic(), tmp_path, device="cpu")
    newest = tmp_path / "step-000000060.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / ".step-000000060.safetensors.123.tmp").write_bytes(b"half")
    recorder = Recorder()
    again = train(config, Synthetic(), tmp_path, device="cpu", progress=recorder)
    assert recorder.done[0] == 40 * 128
    assert torch.equal(whole.W_dec, again.W_dec)
    assert not list(tmp_path.glob(".*"))
    for path in tmp_path.glob("step-*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="Delete the folder"):
        train(config, Synthetic(), tmp_path, device="cpu")


def test_another_config_does_not_resume(tmp_path):
    train(small(samples=256), Synthetic(), tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match="another config"):
        train(small(samples=256, k=4), Synthetic(), tmp_path, device="cpu")


def test_nan_stops_the_run_and_leaves_the_checkpoint(tmp_path):
    config = small(checkpoint_every=10)
    with pytest.raises(TrainingDiverged, match=r"step 36 of 60.*checkpoint of step 30 .*kept") as raised:
        train(config, Synthetic(poisoned_batch=35), tmp_path, device="cpu")
    assert "\n" not in str(raised.value)
    assert saved_steps(tmp_path) == [20, 30]
    kept = TrainingState.resume(config.resolved(), D_IN, tmp_path, torch.device("cpu"))
    assert all(parameter.isfinite().all() for parameter in kept.sae.parameters())
    train(config, Synthetic(), tmp_path, device="cpu")  # goes on where the data is good


def test_a_loss_that_overflows_stops_the_run(tmp_path):
    with pytest.raises(TrainingDiverged, match="learning rate below"):
        train(small(architecture="standard", l1_coefficient=1e38), Synthetic(), tmp_path, device="cpu")


def test_activations_that_are_not_numbers_are_named_before_training(tmp_path):
    with pytest.raises(SAEError, match="activations hold NaN"):
        train(small(), Synthetic(poisoned_batch=2), tmp_path, device="cpu")


def test_activations_that_do_not_vary_are_named_before_training(tmp_path):
    source = Synthetic()
    source.x = torch.ones_like(source.x)
    with pytest.raises(SAEError, match="nothing to learn"):
        train(small(), source, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "jumprelu"}, "Choose standard, topk, batchtopk"),
        ({"architecture": "unheard"}, "'unheard' cannot be trained"),
        ({"k": 65}, "more than the 64 features"),
        ({"k": 0}, "k is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(tmp_path, options, message):
    with pytest.raises(SAEError, match=message):
        train(small(**options), Synthetic(), tmp_path, device="cpu")


def half_dead_state(aux_coefficient, folder):
    """A state in which half of the features read their input so faintly that they never reach the top k."""
    config = small(
        architecture="topk", d_sae=32, samples=128 * 200, dead_after=1024, aux_coefficient=aux_coefficient
    ).resolved()
    state = TrainingState.create(config, D_IN, folder, torch.device("cpu"))
    state.sae.initialise(Synthetic().x, seed=0)
    with torch.no_grad():
        state.sae.W_enc[:, 16:].mul_(0.01)
    return state


def test_auxk_revives_dead_features(tmp_path):
    fractions = {}
    for aux_coefficient in (1 / 32, 0.0):
        state = half_dead_state(aux_coefficient, tmp_path)
        batches = Synthetic().batches(128, seed=0)
        for _ in range(200):
            training.take_step(state, next(batches))
        fractions[aux_coefficient] = len(state.dead()) / 32
    assert fractions[0.0] > 0.3
    assert fractions[1 / 32] < 0.05


def test_learning_rate_rises_and_falls_linearly():
    config = TrainingConfig(samples=1000, batch_size=10, lr=1.0, warmup=0.1, decay=0.2).resolved()
    rates = [config.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_short_runs_take_larger_steps():
    assert TrainingConfig(d_sae=2**14, samples=10**9, batch_size=2048).resolved().lr == pytest.approx(2e-4)
    assert TrainingConfig(d_sae=2**12, samples=10**9, batch_size=2048).resolved().lr == pytest.approx(4e-4)
    assert TrainingConfig(d_sae=2**12, samples=10_000, batch_size=2).resolved().lr == pytest.approx(8e-4)
    assert TrainingConfig(d_sae=2**12, samples=1).resolved().lr == pytest.approx(32e-4)


def test_the_standard_sae_has_no_k_to_refuse():
    assert small(architecture="standard", d_sae=2).resolved().d_sae == 2


def test_dead_counts_activations_not_steps(tmp_path):
    state = TrainingState.create(small(dead_after=300).resolved(), D_IN, tmp_path, torch.device("cpu"))
    state.last_active[3] = 256
    state.step = 3
    assert 3 not in state.dead().tolist()
    assert len(state.dead()) == 63
    state.step = 5
    assert len(state.dead()) == 64


def test_running_variance_is_stable_where_the_mean_is_large():
    x = 1e4 + torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0))
    running = RunningVariance.empty(8, torch.device("cpu"))
    for batch in x.split([1, 999, 4000, 5000]):
        running.add(batch)
    exact = x.double()
    assert running.variance() == pytest.approx(float((exact - exact.mean(dim=0)).square().sum(dim=1).mean()), rel=1e-4)
    torch.testing.assert_close(running.mean, exact.mean(dim=0), rtol=1e-6, atol=0)
