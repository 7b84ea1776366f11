import pytest
import torch

from sae_core.saes import ARCHITECTURES, SAE, BatchTopK, JumpReLU, SAEConfig, Standard, TopK
from sae_core.saes.base import geometric_median
from sae_core.saes.standard import StandardConfig
from sae_core.saes.topk import TopKConfig

NONE = torch.tensor([], dtype=torch.long)


def make(architecture, d_in=6, d_sae=20, **options) -> SAE:
    """An SAE in float64 with start values, then moved off them so that no part of a gradient vanishes."""
    cls = ARCHITECTURES[architecture]
    sae = cls(cls.Config(d_in=d_in, d_sae=d_sae, **options))
    sae.initialise(activations(), seed=0)
    sae = sae.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return sae


def activations(tokens=64, d_in=6):
    return 5 + 3 * torch.randn(tokens, d_in, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options", [{"architecture": "standard"}, {"architecture": "topk", "k": 3}, {"architecture": "batchtopk", "k": 3}]
)
def test_gradients_agree_with_finite_differences(options):
    sae = make(**options)
    x = activations().double() * sae.input_scale
    gradients = torch.autograd.grad(sae.losses(x, NONE, 0.5).total, list(sae.parameters()))
    for parameter, gradient in zip(sae.parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-6)
            above = sae.losses(x, NONE, 0.5).total
            parameter.sub_(direction, alpha=2e-6)
            below = sae.losses(x, NONE, 0.5).total
            parameter.add_(direction, alpha=1e-6)
        torch.testing.assert_close((above - below) / 2e-6, (gradient * direction).sum(), rtol=1e-5, atol=1e-7)


def test_losses_by_hand():
    x = torch.tensor([[3.0, 1.0], [0.0, -2.0]])
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    # With decoder rows along the axes and no bias, f is [[3, 1, 0, 0], [0, 0, 0, 2]].
    # Variance about the mean (1.5, -0.5): (2.25 + 2.25) for each of two tokens.
    saes = {
        "standard": Standard(StandardConfig(d_in=2, d_sae=4, l1_coefficient=0.1)),
        "topk": TopK(TopKConfig(d_in=2, d_sae=4, k=1)),
        "batchtopk": BatchTopK(TopKConfig(d_in=2, d_sae=4, k=1)),
    }
    for sae in saes.values():
        with torch.no_grad():
            sae.W_dec.copy_(axes)
            sae.W_enc.copy_(axes.t())
    standard = saes["standard"].losses(x, NONE, 0.5)
    assert standard.mse == 0
    assert standard.total.item() == pytest.approx(0.5 * 0.1 * (4 + 2) / 2)
    assert standard.l0 == 1.5
    topk = saes["topk"].losses(x, NONE, 1.0)  # leaves out the 1
    assert topk.mse == 0.5
    assert topk.total.item() == pytest.approx(0.5 / 4.5)
    assert topk.active.tolist() == [True, False, False, True]
    assert saes["batchtopk"].losses(x, NONE, 1.0).active.tolist() == [True, False, False, True]  # 3 and 2 beat 1
    assert saes["batchtopk"].threshold == 2


def test_auxk_decodes_the_error_without_the_bias():
    sae = TopK(TopKConfig(d_in=2, d_sae=3, k=1))
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        sae.W_enc.copy_(sae.W_dec.t())
        sae.b_dec.copy_(torch.tensor([10.0, 20.0]))
    x = torch.tensor([[13.0, 21.0]])  # feature 0 gives 3 of (3, 1); the error is (0, 1)
    error = torch.tensor([[0.0, 1.0]])
    assert sae.auxk(x, error, torch.tensor([1, 2])) == 0  # feature 1 explains all of it
    assert sae.auxk(x, error, torch.tensor([2])) == 1  # feature 2 is not active: nothing explained


def test_auxk_gradients_reach_dead_features_only():
    sae = make("topk", k=3)
    x = activations().double() * sae.input_scale
    error = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    dead = torch.tensor([4, 7, 11, 15])  # more than d_in / 2
    sae.auxk(x, error, dead).backward()
    touched = sae.W_dec.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert touched and set(touched) <= set(dead.tolist())
    assert sae.W_enc.grad.abs().sum(dim=0).nonzero().flatten().tolist() == touched
    assert sae.b_dec.grad is None


def test_start_values():
    sae = BatchTopK(TopKConfig(d_in=6, d_sae=20, k=3))
    x = activations(2_000)
    x[0] = 1e6  # one token with a huge norm must not drag the bias
    sae.initialise(x[1:], seed=0)
    clean_bias = sae.b_dec / sae.input_scale
    torch.testing.assert_close(sae.W_enc, sae.W_dec.t())
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert (x[1:] * sae.input_scale).norm(dim=1).mean().item() == pytest.approx(6**0.5)
    assert geometric_median(x).sub(clean_bias).norm() < 0.1
    assert x.mean(dim=0).sub(clean_bias).norm() > 100


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_folding_the_input_scale_is_exact(architecture):
    sae = make(architecture, **({"k": 3} if architecture == "topk" else {}))
    if isinstance(sae, JumpReLU):
        with torch.no_grad():
            sae.threshold.copy_(torch.linspace(0.1, 2, sae.d_sae))
    inference = sae.for_inference()
    x, scale = activations().double(), sae.input_scale
    assert abs(scale - 1) > 0.1
    assert inference.input_scale == 1
    assert not any(parameter.requires_grad for parameter in inference.parameters())
    f = sae.encode(x * scale)
    assert 0.02 < (f > 0).double().mean() < 0.98
    torch.testing.assert_close(inference.encode(x) * scale, f, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inference(x) * scale, sae(x * scale), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inference.W_dec, sae.W_dec)


def test_batchtopk_is_a_jumprelu_at_inference():
    sae = make("batchtopk", k=3)
    x = activations().double()
    sae.losses(x * sae.input_scale, NONE, 1.0)
    inference = sae.for_inference()
    assert isinstance(inference, JumpReLU)
    pre = sae.pre_activations(x * sae.input_scale)
    expected = torch.where(pre > sae.threshold, pre, 0) / sae.input_scale
    torch.testing.assert_close(inference.encode(x), expected, rtol=1e-12, atol=1e-12)
    # Every selected entry but the smallest lies above the batch's own threshold.
    assert (inference.encode(x) > 0).sum() == 3 * len(x) - 1


def test_the_threshold_is_a_running_mean_of_the_smallest_activation():
    sae = BatchTopK(TopKConfig(d_in=2, d_sae=4, k=1))
    sae.observe(torch.tensor([3.0, 2.0]))
    assert sae.threshold == 2
    sae.observe(torch.tensor([3.0, 5.0]))
    assert sae.threshold.item() == pytest.approx(0.9 * 2 + 0.1 * 3)
    sae.observe(torch.tensor([]))
    assert sae.threshold.item() == pytest.approx(2.1)


def test_a_negative_threshold_never_gives_a_negative_activation():
    sae = JumpReLU(SAEConfig(d_in=1, d_sae=1))
    with torch.no_grad():
        sae.W_enc.fill_(1)
        sae.threshold.fill_(-1)
    assert sae.encode(torch.tensor([[-0.5], [0.5]])).tolist() == [[0], [0.5]]


def test_only_the_part_of_a_gradient_across_a_decoder_row_is_kept():
    sae = Standard(StandardConfig(d_in=2, d_sae=2))
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    sae.W_dec.grad = torch.tensor([[3.0, 4.0], [5.0, 0.0]])
    sae.remove_parallel_gradient()
    torch.testing.assert_close(sae.W_dec.grad, torch.tensor([[0.0, 4.0], [3.2, -2.4]]))
