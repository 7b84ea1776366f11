import dataclasses
import math
import random
import shutil
import subprocess
import sys
import types
from itertools import islice
from pathlib import Path

import pytest
import torch

from sae_core.checkpoints import load_sae
from sae_core.errors import CheckpointError, SAEError, TrainingDiverged
from sae_core.saes import ARCHITECTURES, JumpReLU, TopK
from sae_core.training import TrainingConfig, clock, loop, train, train_together
from sae_core.training.curves import TensorBoard, WeightsAndBiases, read_curves
from sae_core.training.running_variance import RunningVariance
from sae_core.training.state import TrainingState, saved_steps
from sae_core.training.step import take_step

D_IN, FEATURES = 16, 40


class Synthetic:
    """Activations that are sums of 3 of 40 sparse directions, with a mean and a scale of their own."""

    d_in, d_out = D_IN, None

    def __init__(self, tokens=4096, poisoned_batch=None):
        generator = torch.Generator().manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(FEATURES, D_IN, generator=generator), dim=1)
        chosen = torch.rand(tokens, FEATURES, generator=generator).topk(3, dim=1).indices
        f = torch.zeros(tokens, FEATURES).scatter(1, chosen, 1 + torch.rand(tokens, 3, generator=generator))
        self.x = 10 * (f @ directions) + 5
        self.poisoned_batch = poisoned_batch

    def batches(self, batch_size, *, seed, skip=0, part=slice(None)):
        per_epoch = len(self.x) // batch_size
        while True:
            epoch, batch = divmod(skip, per_epoch)
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1000 * seed + epoch))
            x = self.x[order[batch * batch_size : (batch + 1) * batch_size]][part]
            yield x * math.nan if skip == self.poisoned_batch else x
            skip += 1

    def validation(self, batch_size):
        yield from Synthetic(tokens=2048).x.split(batch_size)


def small(**options):
    defaults = {"d_sae": 64, "k": 3, "batch_size": 128, "samples": 128 * 60, "lr": 3e-3}
    return TrainingConfig(**(defaults | options))


OPTIONS = {"standard": {"l1_coefficient": 1.0}, "gated": {"l1_coefficient": 1.0}}
"""What suits these activations where the default does not."""


@pytest.fixture(autouse=True)
def small_start_sample(monkeypatch):
    monkeypatch.setattr(clock, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "START_SAMPLE", 1024)


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_learns_and_returns_the_inference_form(tmp_path, architecture):
    recorder, source = Recorder(), Synthetic()
    config = small(architecture=architecture, samples=128 * 400, options=OPTIONS.get(architecture, {}))
    sae = train(config, source, tmp_path, device="cpu", progress=recorder)
    assert explained(sae, source.x) > (0.7 if architecture == "matryoshka" else 0.8)  # which reconstructs less well
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


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "batchtopk", "matryoshka"])
def test_l0_hits_its_target_on_held_out_activations(tmp_path, architecture):
    recorder, source = Recorder(), Synthetic()
    config = small(architecture=architecture, samples=128 * 400)
    sae = train(config, source, tmp_path, device="cpu", progress=recorder)
    assert isinstance(sae, TopK if architecture == "topk" else JumpReLU)
    held_out = torch.cat(list(source.validation(512)))
    l0 = float((sae.encode(held_out) > 0).sum(dim=1).float().mean())
    assert l0 == pytest.approx(3, rel=0.05)
    settled = [metrics["l0"] for metrics in recorder.metrics[-20:]]
    assert sum(settled) / len(settled) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_stopped_anywhere_ends_with_the_same_bits(tmp_path, architecture):
    config = small(architecture=architecture, checkpoint_every=7, dead_after=256, log_every=4)
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


def test_resume_skips_a_damaged_checkpoint(tmp_path):
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


def test_resume_refuses_another_config(tmp_path):
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
    train(config, Synthetic(), tmp_path, device="cpu")  # continues with good data


def test_a_loss_that_overflows_stops_the_run(tmp_path):
    with pytest.raises(TrainingDiverged, match="learning rate below"):
        options = {"l1_coefficient": 1e38}
        train(small(architecture="standard", options=options), Synthetic(), tmp_path, device="cpu")


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
        ({"architecture": "unheard"}, "no architecture 'unheard'. Choose standard, gated, jumprelu, topk, batchtopk"),
        ({"precision": "int8"}, "Choose float32, tf32, bf16"),
        ({"options": {"l1_coefficient": 1.0}}, "batchtopk has no option 'l1_coefficient'. It has aux_coefficient"),
        ({"options": {"d_in": 3}}, "no option 'd_in'"),
        ({"options": {"aux_coefficient": "much"}}, "aux_coefficient is 'much'. Give a number, such as 0.03125"),
        ({"architecture": "matryoshka", "options": {"prefixes": 0.5}}, "prefixes is 0.5. Give a list of numbers"),
        ({"architecture": "matryoshka", "options": {"prefixes": [0.5]}}, "Give ascending shares"),
        ({"compile": True}, "pays for standard, gated only, not for batchtopk"),
        ({"kernels": "cuda"}, "Choose torch, triton"),
        (
            {"kernels": "triton", "architecture": "gated"},
            "for jumprelu, topk, batchtopk, matryoshka only",
        ),
        ({"accumulate": 3}, "batch_size is 128, which 3 parts cannot share evenly"),
        ({"skip": True}, "A skip connection is for transcoders"),
        ({"k": 65}, "more than the 64 features"),
        ({"k": 0}, "k is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
    ],
)
def test_an_invalid_config_is_refused(tmp_path, options, message):
    with pytest.raises(SAEError, match=message):
        train(small(**options), Synthetic(), tmp_path, device="cpu")


def test_triton_kernels_are_refused_where_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SAEError, match="need an NVIDIA GPU and Triton"):
        small(architecture="topk", kernels="triton").resolved()
    monkeypatch.setattr(TrainingConfig, "_check_kernels", lambda config: None)  # a machine with a GPU that is not used
    with pytest.raises(SAEError, match="training runs on cpu"):
        train(small(architecture="topk", kernels="triton"), Synthetic(), tmp_path, device="cpu")


def test_identity_leaves_out_fields_that_were_added_later_at_their_default():
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert fields - small().identity().keys() == {"kernels"}
    assert small(kernels="triton").identity()["kernels"] == "triton"


def half_dead_state(architecture, aux_coefficient, folder):
    """A state in which half of the features read their input so faintly that they never reach the top k."""
    config = small(
        architecture=architecture,
        d_sae=32,
        samples=128 * 200,
        dead_after=1024,
        options={"aux_coefficient": aux_coefficient},
    ).resolved()
    state = TrainingState.create(config, D_IN, folder, torch.device("cpu"))
    state.sae.initialise(Synthetic().x, seed=0)
    with torch.no_grad():
        state.sae.W_enc[:, 16:].mul_(0.01)
    return state


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "batchtopk", "matryoshka"])
def test_auxk_revives_dead_features(tmp_path, architecture):
    fractions = {}
    for aux_coefficient in (1 / 32, 0.0):
        state = half_dead_state(architecture, aux_coefficient, tmp_path)
        batches = Synthetic().batches(128, seed=0)
        for _ in range(200):
            take_step(state, next(batches))
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


def test_k_is_not_checked_for_the_standard_sae():
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


def test_accumulated_parts_give_the_same_weights_as_the_whole_batch(tmp_path):
    parts = {}
    for accumulate in (1, 4):
        config = small(architecture="topk", accumulate=accumulate, samples=128 * 20, dead_after=10**6)
        parts[accumulate] = train(config, Synthetic(), tmp_path / str(accumulate), device="cpu")
    torch.testing.assert_close(parts[4].W_dec, parts[1].W_dec, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts[4].b_dec, parts[1].b_dec, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_learns_with_float32_weights(tmp_path, architecture):
    config = small(
        architecture=architecture, samples=128 * 200, precision="bf16", options=OPTIONS.get(architecture, {})
    )
    sae = train(config, Synthetic(), tmp_path / "half", device="cpu")
    whole = train(dataclasses.replace(config, precision="float32"), Synthetic(), tmp_path / "whole", device="cpu")
    assert {parameter.dtype for parameter in sae.parameters()} == {torch.float32}
    assert not torch.equal(sae.W_dec, whole.W_dec)  # products were rounded
    x = Synthetic().x
    assert explained(sae, x) == pytest.approx(explained(whole, x), abs=0.05)


class Transcoding(Synthetic):
    """Targets that are what a layer makes of the activations: relu of a linear function, of another width and scale."""

    d_out = 12

    def __init__(self, **options):
        super().__init__(**options)
        weight = torch.randn(D_IN, 12, generator=torch.Generator().manual_seed(9))
        self.x = torch.cat([self.x, 100 * ((self.x - 5) @ weight).relu()], dim=1)

    def validation(self, batch_size):
        yield from Transcoding(tokens=2048).x.split(batch_size)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_transcoder_learns_what_a_layer_does(tmp_path, architecture, skip):
    source = Transcoding()
    options = OPTIONS.get(architecture, {})
    config = small(architecture=architecture, samples=128 * 400, skip=skip, k=6, options=options)
    sae = train(config, source, tmp_path, device="cpu")
    assert (sae.d_in, sae.d_out) == (D_IN, 12)
    x, y = source.x[:, :D_IN], source.x[:, D_IN:]
    with torch.no_grad():
        ev = float(1 - (y - sae(x)).square().sum() / (y - y.mean(dim=0)).square().sum())
    assert ev > (0.7 if skip else 0.6)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5, rtol=0)


def test_saes_that_train_together_are_those_that_train_alone(tmp_path):
    configs = [small(d_sae=64, k=3), small(d_sae=32, k=2), small(architecture="standard", options=OPTIONS["standard"])]
    names = ["wide", "narrow", "standard"]
    recorder, source = Recorder(), CountingSource()
    together = train_together(
        configs, source, [tmp_path / name for name in names], device="cpu", progress=recorder, names=names
    )
    assert source.made == configs[0].steps + 1024 // 128  # once for all, after the start sample
    for config, sae, name in zip(configs, together, names, strict=True):
        alone = train(config, Synthetic(), tmp_path / f"{name} alone", device="cpu")
        assert all(torch.equal(tensor, alone.state_dict()[key]) for key, tensor in sae.state_dict().items())
    assert {key.split("/")[0] for key in recorder.metrics[-1]} == set(names)
    with pytest.raises(SAEError, match="the same batch_size"):
        train_together([small(), small(batch_size=64)], Synthetic(), [tmp_path, tmp_path], device="cpu")


class CountingSource(Synthetic):
    made = 0

    def batches(self, *arguments, **options):
        for batch in super().batches(*arguments, **options):
            self.made += 1
            yield batch


def test_an_sae_whose_checkpoint_is_behind_catches_up(tmp_path):
    """A kill may come between two checkpoints of the same step."""
    configs = [small(checkpoint_every=20), small(checkpoint_every=20, k=2)]
    folders = [tmp_path / "a", tmp_path / "b"]
    whole = train_together(configs, Synthetic(), folders, device="cpu")
    (folders[1] / "step-000000060.safetensors").unlink()
    again = train_together(configs, Synthetic(), folders, device="cpu")
    for before, after in zip(whole, again, strict=True):
        assert torch.equal(before.W_enc, after.W_enc)
    assert [line["step"] for line in read_curves(folders[1])] == list(range(1, 61))


def test_curves_are_means_over_steps_and_are_kept_beside_the_checkpoints(tmp_path):
    config = small(log_every=25)
    recorder = Recorder()
    train(config, Synthetic(), tmp_path, device="cpu", progress=recorder, trackers=[tracker := Kept()])
    lines = read_curves(tmp_path)
    assert [line["step"] for line in lines] == [25, 50, 60]
    assert [{"step": step, **point} for step, point in tracker.points] == lines
    assert [{"step": line["step"], **point} for line, point in zip(lines, recorder.metrics, strict=True)] == lines
    fine = Recorder()
    train(small(log_every=1), Synthetic(), tmp_path / "fine", device="cpu", progress=fine)
    losses = [point["loss"] for point in fine.metrics]
    assert lines[1]["loss"] == pytest.approx(sum(losses[25:50]) / 25)
    assert lines[2]["l0"] == pytest.approx(sum(point["l0"] for point in fine.metrics[50:]) / 10)


class Kept:
    def __init__(self):
        self.points = []

    def log(self, step, point):
        self.points.append((step, dict(point)))


def test_a_curve_that_was_cut_short_continues_from_the_checkpoint(tmp_path):
    train(small(checkpoint_every=20, log_every=10), Synthetic(), tmp_path, device="cpu")
    whole = (tmp_path / "curves.jsonl").read_text()
    (tmp_path / "step-000000060.safetensors").unlink()
    (tmp_path / "curves.jsonl").write_text(whole[:-5])  # the last line is half written
    train(small(checkpoint_every=20, log_every=10), Synthetic(), tmp_path, device="cpu")
    assert [line["step"] for line in read_curves(tmp_path)] == [10, 20, 30, 40, 50, 60]


def test_trackers_that_are_not_installed_say_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SAEError, match=r"seesae\[tensorboard\]"):
        TensorBoard(tmp_path)
    with pytest.raises(SAEError, match=r"seesae\[wandb\]"):
        WeightsAndBiases("name", {})


def test_tensorboard_gets_the_points(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(small(log_every=30), Synthetic(), tmp_path, device="cpu", trackers=[TensorBoard(tmp_path / "events")])
    events = accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("explained_variance")] == [30, 60]


def test_only_the_last_checkpoints_are_kept(tmp_path):
    train(small(checkpoint_every=10, keep=4), Synthetic(), tmp_path, device="cpu")
    assert saved_steps(tmp_path) == [30, 40, 50, 60]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoder_rows_keep_unit_norm_at_every_step(tmp_path, architecture):
    config = small(architecture=architecture, options=OPTIONS.get(architecture, {})).resolved()
    state = TrainingState.create(config, D_IN, tmp_path, torch.device("cpu"))
    state.sae.initialise(Synthetic().x, seed=0)
    for batch in islice(Synthetic().batches(128, seed=0), 20):
        take_step(state, batch)
        torch.testing.assert_close(state.sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5, rtol=0)


def test_weights_and_biases_gets_the_points_of_one_run_that_resumes(tmp_path, monkeypatch):
    """Against what W&B documents of `init` and `log`; the service itself is out of reach here."""
    calls = []

    class Run:
        def log(self, point, step):
            calls.append((step, point["loss"]))

    def init(**options):
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    tracker = WeightsAndBiases("slug", {"lr": 1e-3})
    train(small(log_every=30), Synthetic(), tmp_path, device="cpu", trackers=[tracker])
    assert (calls[0]["id"], calls[0]["resume"], calls[0]["config"]) == ("slug", "allow", {"lr": 1e-3})
    assert calls[1:] == [(line["step"], line["loss"]) for line in read_curves(tmp_path)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler, which torch.compile needs on a CPU")
def test_a_compiled_step_learns_the_same(tmp_path):
    """In a process of its own: the compiler minds which modules others have imported (setuptools' distutils)."""
    config = small(architecture="standard", samples=128 * 20, options=OPTIONS["standard"])
    plain = train(config, Synthetic(), tmp_path / "plain", device="cpu")
    code = (
        "import dataclasses, pathlib, sys, torch\n"
        "from sae_core import save_sae\n"
        "from sae_core.training import loop\n"
        "from tests.core.training import test_loop as t\n"
        "loop.START_SAMPLE = 1024\n"
        "torch.set_num_threads(1)\n"
        "config = t.small(architecture='standard', samples=128 * 20, options=t.OPTIONS['standard'], compile=True)\n"
        "save_sae(t.train(config, t.Synthetic(), pathlib.Path(sys.argv[1]), device='cpu'), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "compiled"), str(tmp_path / "sae")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(load_sae(tmp_path / "sae").W_dec, plain.W_dec, rtol=1e-3, atol=1e-4)
