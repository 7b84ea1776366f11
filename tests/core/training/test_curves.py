import sys
import types

import pytest

from sae_core.errors import SAEError
from sae_core.training import train
from sae_core.training.curves import TensorBoard, WeightsAndBiases, read_curves
from tests.core.training.synthetic import Recorder, Synthetic, small


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
