import math
from dataclasses import replace
from itertools import count

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from sae_core.errors import SAEError, TrainingDiverged
from sae_core.training import loop, train, train_together
from sae_core.training.config import TrainingConfig
from sae_core.training.curves import read_curves
from sae_core.training.gpu_step import WARM_UP, GpuStep, is_supported
from sae_core.training.state import TrainingState, saved_steps
from sae_core.training.step import take_step
from tests.core.kernels.problems import close, random
from tests.core.training.waiting import NoSynchronisation

BATCH, D_IN = 12, 13
IN_PARTS = {"accumulate": 3, "options": {"aux_coefficient": 0}}


def new_state(folder, device, **options):
    defaults = {"architecture": "topk", "d_sae": 70, "k": 2, "batch_size": BATCH, "samples": 20 * BATCH, "lr": 1e-3}
    config = TrainingConfig(**(defaults | options)).resolved()
    state = TrainingState.create(config, D_IN, folder, device)
    state.sae.initialise(batch(0, device), seed=0)
    with torch.no_grad():
        # The encoder starts as the decoder's transpose, so a row's only feature leaves it no error: its gradient is
        # rounding noise, which Adam makes into whole steps.
        state.sae.W_enc.mul_(0.7)
    return state


def batch(number, device):
    return 3 * random(BATCH, D_IN, seed=100 + number, device=device) + 2


def agree(ours, plain, tolerance):
    for (name, tensor), expected in zip(ours._tensors().items(), plain._tensors().values(), strict=True):
        assert tensor.shape == expected.shape, name
        close(tensor, expected, tolerance)


@pytest.mark.parametrize("dead_after", [10**9, 16])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_steps_are_those_of_the_ordinary_step(device, tmp_path, architecture, dead_after):
    options = {"architecture": architecture, "dead_after": dead_after}
    plain, ours = (new_state(tmp_path, device, **options) for _ in range(2))
    step = GpuStep(ours)
    had_dead = False
    for number in range(WARM_UP + 3):
        had_dead |= len(plain.dead()) > 0
        expected, losses = take_step(plain, batch(number, device)), step(batch(number, device))
        for name in ("total", "mse", "l0"):
            assert getattr(losses, name).item() == pytest.approx(getattr(expected, name).item(), rel=2e-5)
        assert torch.equal(losses.active, expected.active)
    assert had_dead == (dead_after == 16)
    assert ours.step == plain.step and step.is_finite()
    agree(ours, plain, 2e-4)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_bfloat16_products_stay_near_the_step_in_float32(device, tmp_path, architecture):
    plain = new_state(tmp_path, device, architecture=architecture)
    ours = new_state(tmp_path, device, architecture=architecture, precision="bf16")
    step = GpuStep(ours)
    for number in range(3):
        expected, losses = take_step(plain, batch(number, device)), step(batch(number, device))
        assert losses.total.item() == pytest.approx(expected.total.item(), rel=0.03)
    assert ours.sae.W_dec.dtype == torch.float32
    close(ours.sae.W_dec, plain.sae.W_dec, 0.02)


def test_a_run_resumes_from_its_checkpoint_by_either_step(device, tmp_path):
    whole = new_state(tmp_path / "whole", device, architecture="batchtopk")
    step = GpuStep(whole)
    for number in range(4):
        step(batch(number, device))
        if number == 1:
            whole.save()
    for takes in (GpuStep, lambda state: lambda rows: take_step(state, rows)):
        resumed = TrainingState.resume(whole.config, D_IN, whole.folder, device)
        assert resumed is not None and resumed.step == 2
        take = takes(resumed)
        for number in (2, 3):
            take(batch(number, device))
        agree(resumed, whole, 0 if takes is GpuStep else 2e-4)


def test_a_step_is_the_same_bits_each_time(device, tmp_path):
    states = [new_state(tmp_path, device, architecture="batchtopk", dead_after=16) for _ in range(2)]
    for state in states:
        step = GpuStep(state)
        for number in range(3):
            step(batch(number, device))
    agree(*states, 0)


def test_a_batch_that_is_not_a_number_leaves_the_weights_alone(device, tmp_path):
    state = new_state(tmp_path, device)
    step = GpuStep(state)
    step(batch(0, device))
    weights = [parameter.detach().clone() for parameter in state.sae.parameters()]
    step(batch(1, device) * math.nan)
    step(batch(2, device))
    assert not step.is_finite()
    assert all(torch.equal(old, new) for old, new in zip(weights, state.sae.parameters(), strict=True))


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_training_with_triton_kernels_gives_what_training_with_torch_gives(device, tmp_path, monkeypatch, architecture):
    monkeypatch.setattr(loop, "START_SAMPLE", 64)
    config = TrainingConfig(
        architecture=architecture, d_sae=70, k=2, batch_size=BATCH, samples=5 * BATCH, lr=1e-3, kernels="triton"
    )
    plain = train(replace(config, kernels="torch"), Batches(), tmp_path / "torch", device=device)
    ours = train(config, Batches(), tmp_path / "triton", device=device)
    close(ours.W_dec, plain.W_dec, 2e-3)
    points, expected = (read_curves(tmp_path / kernels) for kernels in ("triton", "torch"))
    assert [point["l0"] for point in points] == [point["l0"] for point in expected]
    assert [point["loss"] for point in points] == pytest.approx([point["loss"] for point in expected], rel=1e-3)


def test_training_with_triton_kernels_saves_no_checkpoint_after_a_bad_step(device, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "START_SAMPLE", BATCH)
    config = TrainingConfig(
        architecture="topk", d_sae=70, k=2, batch_size=BATCH, samples=6 * BATCH, lr=1e-3, kernels="triton",
        checkpoint_every=2, log_every=6,
    )  # fmt: skip
    with pytest.raises(TrainingDiverged, match=r"stopped by step 4 of 6.*checkpoint of step 2 .*kept"):
        train(config, Batches(poisoned=2), tmp_path, device=device)
    assert saved_steps(tmp_path) == [2]


def test_saes_that_train_together_use_the_same_kernels(device, tmp_path):
    configs = [TrainingConfig(d_sae=70, k=2, batch_size=BATCH, kernels=kernels) for kernels in ("torch", "triton")]
    with pytest.raises(SAEError, match="the same kernels"):
        train_together(configs, Batches(), [tmp_path, tmp_path], device=device)


class Batches:
    d_in, d_out = D_IN, None

    def __init__(self, poisoned=None):
        self.poisoned = poisoned

    def batches(self, batch_size, *, seed, skip=0, part=slice(None)):
        for number in count(skip):
            rows = batch(number, "cpu")[part]
            yield rows * math.nan if number == self.poisoned else rows


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_step_never_waits_for_the_device(device, tmp_path, architecture):
    state = new_state(tmp_path, device, architecture=architecture, dead_after=16)
    step, rows = GpuStep(state), [batch(number, device) for number in range(WARM_UP + 2)]
    step(rows[0])
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoSynchronisation():
            for later in rows[1:]:
                step(later)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [{"architecture": "matryoshka"}, {"architecture": "jumprelu"}, IN_PARTS])
def test_unsupported_configs_are_refused(device, tmp_path, options):
    state = new_state(tmp_path, device, **options)
    assert not is_supported(state)
    with pytest.raises(SAEError, match="no GPU step"):
        GpuStep(state)
