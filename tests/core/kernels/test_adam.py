import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from sae_core.kernels.gpu.adam import AdamState, Schedule, descend, descend_reference, prepare_step, squared_norms
from sae_core.training.config import TrainingConfig
from tests.core.kernels.problems import BF16, SHAPES, close, random

SCHEDULE = Schedule(lr=3e-3, rising=5.0, falling=20.0, steps=100, clip=1.0, beta1=0.9, beta2=0.999)


def unit(rows):
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("shape", [(7, 1), (130, 5), (64, 100), (3, 1025), (1,), (33,), (2500,)])
def test_descent_is_that_of_plain_torch_in_float64(device, shape, unit_rows):
    if unit_rows and len(shape) == 1:
        return
    adam = AdamState.after(3, SCHEDULE, device)
    prepare_step(adam, SCHEDULE, torch.full((5,), 0.7, device=device), torch.ones(2, device=device), torch.zeros(()))
    parameter, gradient = random(*shape, seed=1, device=device), random(*shape, seed=2, device=device)
    moments = (random(*shape, seed=3, device=device), random(*shape, seed=4, device=device).square())
    parameter = unit(parameter) if unit_rows else parameter
    wide, wide_moments = parameter.double(), (moments[0].double(), moments[1].double())
    copy = torch.empty_like(parameter, dtype=torch.bfloat16)
    descend(parameter, gradient, moments, adam, SCHEDULE, copy=copy, unit_rows=unit_rows)
    descend_reference(wide, gradient.double(), wide_moments, adam, SCHEDULE, unit_rows=unit_rows)
    close(parameter, wide, 1e-6)
    for ours, plain in zip(moments, wide_moments, strict=True):
        close(ours, plain, 1e-6)
    close(copy, parameter, BF16)


def test_several_steps_are_those_of_torchs_adam(device):
    config = TrainingConfig(batch_size=10, samples=1000, lr=3e-3).resolved()
    parameter = random(9, 33, seed=1, device=device)
    plain = torch.nn.Parameter(parameter.double())
    optimiser = torch.optim.Adam([plain], betas=(config.beta1, config.beta2))
    moments = (torch.zeros_like(parameter), torch.zeros_like(parameter))
    adam = AdamState.after(0, SCHEDULE, device)
    for step in range(4):
        gradient = random(9, 33, seed=10 + step, device=device) * 10 ** (1 - step)  # clipped at first, later not
        prepare_step(adam, SCHEDULE, gradient.square().sum(dim=1), torch.zeros(1, device=device), torch.zeros(()))
        descend(parameter, gradient, moments, adam, SCHEDULE)
        plain.grad = gradient.double()
        torch.nn.utils.clip_grad_norm_([plain], SCHEDULE.clip)
        optimiser.param_groups[0]["lr"] = config.learning_rate(step)
        optimiser.step()
    close(parameter, plain.detach(), 1e-6)


@pytest.mark.parametrize("step", [0, 2, 50, 85, 99])
def test_adam_state_follows_the_schedule(device, step):
    config = TrainingConfig(batch_size=10, samples=1000, lr=3e-3, warmup=0.05, decay=0.2).resolved()
    adam = AdamState.after(step, SCHEDULE, device)
    prepare_step(
        adam, SCHEDULE, torch.full((3,), 3.0, device=device), torch.full((1,), 4.0, device=device), torch.ones(())
    )
    scale, rate, correction, is_taken = adam.numbers.tolist()
    assert scale == pytest.approx(1 / 5)
    assert rate == pytest.approx(config.learning_rate(step) / (1 - 0.9 ** (step + 1)))
    assert correction == pytest.approx((1 - 0.999 ** (step + 1)) ** -0.5)
    assert is_taken == 1 and int(adam.step) == step + 1
    assert adam.powers.tolist() == pytest.approx([0.9 ** (step + 1), 0.999 ** (step + 1)], rel=1e-14)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_nan_stops_all_later_steps(device, bad, where):
    adam = AdamState.after(0, SCHEDULE, device)
    parameter = torch.ones(3, device=device)
    moments = (torch.zeros(3, device=device), torch.zeros(3, device=device))
    fine, broken = torch.ones(3, device=device), torch.full((3,), bad, device=device)
    # With a batch that is fine after it.
    for of_features, loss in ((broken, 0.0) if where == "gradient" else (fine, bad), (fine, 0.0)):
        prepare_step(adam, SCHEDULE, of_features, fine, torch.tensor(loss, device=device))
        descend(parameter, of_features, moments, adam, SCHEDULE)
        assert not adam.is_finite()
        assert parameter.tolist() == [1, 1, 1] and not moments[0].any()


@pytest.mark.parametrize(("batch", "d_in", "d_sae", "k"), SHAPES)
def test_squared_norms_leave_out_the_component_along_the_decoder(device, batch, d_in, d_sae, k):
    decoder = unit(random(d_sae, d_in, seed=1, device=device))
    of_decoder, of_encoder = (random(d_sae, d_in, seed=seed, device=device) for seed in (2, 3))
    of_bias = random(d_sae, seed=4, device=device)
    wide, direction = of_decoder.double(), decoder.double()
    across = wide - torch.linalg.vecdot(wide, direction)[:, None] * direction
    expected = across.square().sum(dim=1) + of_encoder.double().square().sum(dim=1) + of_bias.double().square()
    close(squared_norms((of_decoder, of_encoder, of_bias), decoder), expected)
