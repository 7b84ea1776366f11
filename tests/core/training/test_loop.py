import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sae_core.errors import CheckpointError, SAEError, TrainingDiverged
from sae_core.saes import ARCHITECTURES
from sae_core.training import train, train_together
from sae_core.training.curves import read_curves
from sae_core.training.state import TrainingState, saved_steps
from tests.core.training.synthetic import D_IN, OPTIONS, CountingSource, Recorder, Synthetic, small


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
    recorder = Recorder()
    again = train(config, Synthetic(), tmp_path, device="cpu", progress=recorder)
    assert recorder.done[0] == 40 * 128
    assert torch.equal(whole.W_dec, again.W_dec)
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


class SeenPrecisions(TorchDispatchMode):
    """Records the precision that products run under."""

    def __init__(self):
        super().__init__()
        self.precisions = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "mm" in function.__name__:
            self.precisions.add(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


class ComputedAsNeeded(Synthetic):
    """Activations that are computed between the steps, as a stream's are."""

    def __init__(self):
        super().__init__()
        self.precisions = set()

    def batches(self, *arguments, **options):
        for batch in super().batches(*arguments, **options):
            self.precisions.add(torch.get_float32_matmul_precision())
            yield batch


def test_tf32_is_for_the_steps_of_its_own_run_alone(tmp_path):
    source, of_float32 = ComputedAsNeeded(), SeenPrecisions()
    train(small(precision="tf32", samples=128 * 3), source, tmp_path / "tf32", device="cpu")
    assert source.precisions == {"highest"}
    assert torch.get_float32_matmul_precision() == "highest"
    with of_float32:
        train(small(samples=128 * 3), Synthetic(), tmp_path / "float32", device="cpu")
    assert of_float32.precisions == {"highest"}


def test_an_sae_of_tf32_leaves_one_of_float32_beside_it_alone(tmp_path):
    configs = [small(precision=precision, samples=128 * 3) for precision in ("tf32", "float32")]
    with SeenPrecisions() as seen:
        train_together(configs, Synthetic(), [tmp_path / "a", tmp_path / "b"], device="cpu")
    assert seen.precisions == {"high", "highest"}


def test_tf32_ends_with_a_run_that_fails(tmp_path):
    with pytest.raises(TrainingDiverged):
        train(small(precision="tf32"), Synthetic(poisoned_batch=20), tmp_path, device="cpu")
    assert torch.get_float32_matmul_precision() == "highest"
