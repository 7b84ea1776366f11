import math
from itertools import islice

import pytest
import torch

from sae_core.errors import SAEError, TrainingDiverged
from sae_core.kernels import selection
from sae_core.saes import ARCHITECTURES, topk
from sae_core.training import state as state_module
from sae_core.training import step as step_module
from sae_core.training import train
from sae_core.training.state import TrainingState
from sae_core.training.step import TorchStep, take_step
from tests.core.training.synthetic import D_IN, OPTIONS, Synthetic, small
from tests.core.training.waiting import NoSynchronisation


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoder_rows_keep_unit_norm_at_every_step(tmp_path, architecture):
    config = small(architecture=architecture, options=OPTIONS.get(architecture, {})).resolved()
    state = TrainingState.create(config, D_IN, tmp_path, torch.device("cpu"))
    state.sae.initialise(Synthetic().x, seed=0)
    for batch in islice(Synthetic().batches(128, seed=0), 20):
        take_step(state, batch)
        torch.testing.assert_close(state.sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("standard", OPTIONS["standard"]), ("gated", OPTIONS["gated"]), ("topk", {"aux_coefficient": 0})],
)
def test_accumulated_parts_give_the_same_weights_as_the_whole_batch(tmp_path, architecture, options):
    """Also where features are dead, which 256 activations without one make them."""
    parts = {}
    for accumulate in (1, 4):
        config = small(
            architecture=architecture, options=options, accumulate=accumulate, samples=128 * 20, dead_after=256
        )
        parts[accumulate] = train(config, Synthetic(), tmp_path / str(accumulate), device="cpu")
    for name, tensor in parts[1].state_dict().items():
        torch.testing.assert_close(parts[4].state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka", "topk", "jumprelu"])
def test_an_architecture_that_needs_the_whole_batch_refuses_parts_of_it(architecture):
    with pytest.raises(SAEError, match=f"accumulate is 2, but {architecture} needs each batch whole"):
        small(architecture=architecture, accumulate=2).resolved()


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Take what a step does on a GPU, where the host would wait for any number; sizes then do not depend on data."""
    for module in (selection, topk, state_module, step_module):
        monkeypatch.setattr(module, "answers_at_once", lambda tensor: False)


def new_state(folder, architecture, **options):
    options = {"dead_after": 256, "log_every": 100, **options}
    state = TrainingState.create(
        small(architecture=architecture, **options).resolved(), D_IN, folder, torch.device("cpu")
    )
    state.sae.initialise(Synthetic().x, seed=0)
    return state


WITHOUT_WAITING = [name for name in ARCHITECTURES if name != "jumprelu"]
"""JumpReLU's entries near a threshold are as many as there are."""


@pytest.mark.parametrize("architecture", WITHOUT_WAITING)
def test_a_step_of_torch_never_waits_for_a_gpu(tmp_path, as_on_a_gpu, architecture):
    """After the first one, which lists the dead features; that list is renewed with each point of the curves."""
    state, batches = new_state(tmp_path, architecture), Synthetic().batches(128, seed=0)
    take_step(state, next(batches))
    rows = [next(batches) for _ in range(3)]
    with NoSynchronisation():
        for batch in rows:
            take_step(state, batch)


@pytest.mark.parametrize("d_sae", [64, 6])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_that_does_not_wait_is_the_same(tmp_path, request, architecture, d_sae):
    """Also where fewer than k pre-activations of a token are positive, as with six features; and with dead ones."""
    plain, ours = (new_state(tmp_path, architecture, d_sae=d_sae, log_every=1) for _ in range(2))
    with torch.no_grad():
        for state in (plain, ours):
            state.sae.b_enc[:3] = -50.0  # features that die
    of_plain = [take_step(plain, batch) for batch in islice(Synthetic().batches(128, seed=0), 6)]
    assert len(plain.dead()) >= 3
    request.getfixturevalue("as_on_a_gpu")
    for batch, expected in zip(islice(Synthetic().batches(128, seed=0), 6), of_plain, strict=True):
        losses = take_step(ours, batch)
        for name in ("total", "mse", "l0"):
            assert getattr(losses, name).item() == pytest.approx(getattr(expected, name).item(), rel=1e-4)
        assert torch.equal(losses.active, expected.active)
    if architecture in ("batchtopk", "matryoshka"):
        assert ours.sae.threshold.item() == pytest.approx(plain.sae.threshold.item(), rel=1e-4)


def test_a_bad_batch_on_a_gpu_leaves_the_weights_and_is_reported(tmp_path, as_on_a_gpu):
    state, batches = new_state(tmp_path, "topk"), Synthetic().batches(128, seed=0)
    step = TorchStep(state)
    step(next(batches))
    step.check()
    weights = {name: parameter.detach().clone() for name, parameter in state.sae.named_parameters()}
    step(next(batches) * math.nan)
    step(next(batches))
    for name, parameter in state.sae.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=0, atol=1e-6)
    with pytest.raises(TrainingDiverged, match="by step 3 of 60"):
        step.check()


def test_inference_on_a_gpu_returns_active_entries_alone(tmp_path, as_on_a_gpu):
    sae = new_state(tmp_path, "topk", d_sae=6).sae
    selected, values = sae.encode_sparse(Synthetic().x[:100])
    assert (values > 0).all()
    assert len(values) == len(selected.rows) == int((sae.encode(Synthetic().x[:100]) > 0).sum()) < 300
