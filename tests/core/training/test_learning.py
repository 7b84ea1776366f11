"""That training learns what it should: hundreds of steps for each architecture."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae_core.checkpoints import load_sae
from sae_core.saes import ARCHITECTURES, JumpReLU, Standard, TopK
from sae_core.training import train
from sae_core.training.state import TrainingState
from sae_core.training.step import take_step
from tests.core.training.synthetic import D_IN, OPTIONS, Recorder, Synthetic, Transcoding, small


def explained(sae, x):
    with torch.no_grad():
        return float(1 - (x - sae(x)).square().sum() / (x - x.mean(dim=0)).square().sum())


LEAST_EXPLAINED = {"gated": 0.9, "topk": 0.75, "batchtopk": 0.75, "standard": 0.75, "jumprelu": 0.7, "matryoshka": 0.65}
"""Of 64 features for 40 directions in 16 dimensions, 3 of them at a time: nobody finds them all."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_learns_and_returns_the_inference_form(tmp_path, architecture):
    recorder, source = Recorder(), Synthetic()
    config = small(architecture=architecture, samples=128 * 400, options=OPTIONS.get(architecture, {}))
    sae = train(config, source, tmp_path, device="cpu", progress=recorder)
    assert explained(sae, source.x) > LEAST_EXPLAINED[architecture]
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


INFERENCE_FORMS = {"standard": Standard, "topk": TopK}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_l0_hits_its_target_on_held_out_activations(tmp_path, architecture):
    recorder, source = Recorder(), Synthetic()
    config = small(architecture=architecture, samples=128 * 400)
    sae = train(config, source, tmp_path, device="cpu", progress=recorder)
    assert isinstance(sae, INFERENCE_FORMS.get(architecture, JumpReLU))
    held_out = torch.cat(list(source.validation(512)))
    l0 = float((sae.encode(held_out) > 0).sum(dim=1).float().mean())
    assert l0 == pytest.approx(3, rel=0.05)
    settled = [metrics["l0"] for metrics in recorder.metrics[-20:]]
    assert sum(settled) / len(settled) == pytest.approx(3, rel=0.05)


def test_a_jumprelu_ends_at_k_however_far_from_it_training_stops(tmp_path):
    source = Synthetic()
    config = small(architecture="jumprelu", samples=128 * 30, options={"l0_coefficient": 0.0})
    recorder = Recorder()
    sae = train(config, source, tmp_path, device="cpu", progress=recorder)
    assert recorder.metrics[-1]["l0"] != pytest.approx(3, rel=0.05)  # without a penalty nothing holds it
    held_out = torch.cat(list(source.validation(512)))
    assert float((sae.encode(held_out) > 0).sum(dim=1).float().mean()) == pytest.approx(3, rel=0.05)
    again = train(config, source, tmp_path, device="cpu")  # from the checkpoint, which keeps them as they were trained
    assert torch.equal(again.threshold, sae.threshold)


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
    assert fractions[1 / 32] < 0.15


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


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler, which torch.compile needs on a CPU")
def test_a_compiled_step_learns_the_same(tmp_path):
    """In a process of its own: the compiler minds which modules others have imported (setuptools' distutils)."""
    config = small(architecture="standard", samples=128 * 20, options=OPTIONS["standard"])
    plain = train(config, Synthetic(), tmp_path / "plain", device="cpu")
    code = (
        "import pathlib, sys, torch\n"
        "from sae_core import save_sae\n"
        "from sae_core.training import loop, train\n"
        "from tests.core.training.synthetic import OPTIONS, Synthetic, small\n"
        "loop.START_SAMPLE = 1024\n"
        "torch.set_num_threads(1)\n"
        "config = small(architecture='standard', samples=128 * 20, options=OPTIONS['standard'], compile=True)\n"
        "save_sae(train(config, Synthetic(), pathlib.Path(sys.argv[1]), device='cpu'), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "compiled"), str(tmp_path / "sae")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(load_sae(tmp_path / "sae").W_dec, plain.W_dec, rtol=1e-3, atol=1e-4)
