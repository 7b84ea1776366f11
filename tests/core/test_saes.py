import math

import pytest
import torch

from sae_core.errors import SAEError
from sae_core.saes import ARCHITECTURES, SAE, Batch, BatchTopK, Gated, JumpReLU, MatryoshkaBatchTopK, Standard, TopK
from sae_core.saes.auxk import auxk
from sae_core.saes.config import SAEConfig
from sae_core.saes.gated import GatedConfig
from sae_core.saes.initialisation import geometric_median
from sae_core.saes.jumprelu import JumpReLUConfig, _Jump
from sae_core.saes.matryoshka import MatryoshkaConfig
from sae_core.saes.normalisation import NORMALISATIONS
from sae_core.saes.standard import StandardConfig
from sae_core.saes.topk import TopKConfig

D_IN, D_OUT, D_SAE = 6, 5, 20
TAKES_K = {"k": 3}
OPTIONS = {
    "standard": {},
    "gated": {},
    "jumprelu": TAKES_K,
    "topk": TAKES_K,
    "batchtopk": TAKES_K,
    "matryoshka": TAKES_K | {"prefixes": (0.2, 0.5, 1.0)},
}
KINDS = {"autoencoder": {}, "transcoder": {"d_out": D_OUT}, "skip transcoder": {"d_out": D_OUT, "skip": True}}


def activations(tokens=64, width=D_IN):
    return 5 + 3 * torch.randn(tokens, width, generator=torch.Generator().manual_seed(width))


def make(architecture, kind="autoencoder", **options) -> SAE:
    """An SAE in float64 with start values, then moved off them so that no part of a gradient vanishes."""
    cls = ARCHITECTURES[architecture]
    sae = cls(cls.Config(**({"d_in": D_IN, "d_sae": D_SAE} | OPTIONS[architecture] | KINDS[kind] | options)))
    sae.initialise(activations(), seed=0, target=activations(width=D_OUT) if sae.is_transcoder else None)
    sae = sae.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return sae


def batch_for(sae, **options):
    x = activations().double() * sae.input_scale
    return Batch.of(x, activations(width=D_OUT).double() * sae.output_scale if sae.is_transcoder else None, **options)


def every_architecture_and_kind(test):
    return pytest.mark.parametrize("kind", KINDS)(pytest.mark.parametrize("architecture", ARCHITECTURES)(test))


@every_architecture_and_kind
def test_gradients_agree_with_finite_differences(architecture, kind):
    sae = make(architecture, kind)
    # Thresholds have no true gradient: test_the_gradient_of_a_threshold_... has theirs.
    smooth = [parameter for name, parameter in sae.named_parameters() if name != "threshold"]
    batch = batch_for(sae, dead=torch.tensor([4, 7, 11]), sparsity=0.5)
    gradients = torch.autograd.grad(sae.losses(batch).total, smooth)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    for parameter, gradient in zip(smooth, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        difference = central_difference(sae, batch, parameter, direction)
        torch.testing.assert_close(difference, (gradient * direction).sum(), rtol=2e-5, atol=1e-7)


def central_difference(sae, batch, parameter, direction):
    """Of the loss along a direction; what the loss holds constant on purpose (`detach`) is held constant here too."""
    totals = []
    with torch.no_grad():
        frozen = {name: tensor.clone() for name, tensor in sae.named_parameters()}
        for step in (1e-6, -1e-6):
            parameter.add_(direction, alpha=step)
            totals.append(total_with_frozen(sae, batch, frozen))
            parameter.sub_(direction, alpha=step)
    return (totals[0] - totals[1]) / 2e-6


def total_with_frozen(sae, batch, frozen):
    """The loss, written out again in dense float64, with the parameters that it detaches taken from `frozen`."""
    pre = (batch.x - (0 if sae.is_transcoder else sae.b_dec)) @ sae.W_enc + sae.b_enc
    skip = 0 if sae.W_skip is None else batch.x @ sae.W_skip
    target = batch.target

    def mse(f, W_dec=None, b_dec=None, skip=skip):
        W_dec, b_dec = sae.W_dec if W_dec is None else W_dec, sae.b_dec if b_dec is None else b_dec
        return (target - f @ W_dec - b_dec - skip).square().sum(dim=1).mean()

    f = sae.activate(pre) if not isinstance(sae, BatchTopK) else keep_largest(pre, sae.k * len(pre))
    if isinstance(sae, Standard):
        return mse(f) + batch.sparsity * sae.config.l1_coefficient * f.sum(dim=1).mean()
    if isinstance(sae, Gated):
        frozen_skip = 0 if sae.W_skip is None else batch.x @ frozen["W_skip"]
        of_gate = mse(pre.relu(), frozen["W_dec"], frozen["b_dec"], frozen_skip)
        return mse(f) + batch.sparsity * sae.config.l1_coefficient * pre.relu().sum(dim=1).mean() + of_gate
    ends = [round(share * D_SAE) for share in getattr(sae.config, "prefixes", (1.0,))]
    prefixes = [mse(torch.where(torch.arange(D_SAE) < end, f, 0)) for end in ends]
    total = torch.stack(prefixes).mean() / batch.variance
    if isinstance(sae, JumpReLU):
        l0 = (f > 0).sum(dim=1).double().mean()
        total = total + batch.sparsity * 10 * (l0 / 3 - 1).square()
    # AuxK explains an error that it does not move, with a bias of the input that it does not move either.
    still = dict(sae.named_parameters()) | frozen
    was = (batch.x - (0 if sae.is_transcoder else still["b_dec"])) @ still["W_enc"] + still["b_enc"]
    was_f = keep_largest(was, sae.k * len(was)) if isinstance(sae, BatchTopK) else activate_with(sae, was, still)
    was_skip = 0 if sae.W_skip is None else batch.x @ still["W_skip"]
    error = target - was_f @ still["W_dec"] - still["b_dec"] - was_skip
    dead_pre = (batch.x - (0 if sae.is_transcoder else still["b_dec"])) @ sae.W_enc + sae.b_enc
    kept = dead_pre[:, batch.dead].topk(min(sae.d_out // 2, len(batch.dead)), dim=1)
    dead_f = torch.zeros(len(dead_pre), len(batch.dead), dtype=torch.float64).scatter(
        1, kept.indices, kept.values.relu()
    )
    aux = (error - dead_f @ sae.W_dec[batch.dead]).square().sum() / error.square().sum()
    return total + aux / 32


def activate_with(sae, pre, parameters):
    if isinstance(sae, JumpReLU):
        return torch.where(pre > parameters["threshold"].clamp(min=0), pre, 0)
    return sae.activate(pre)


def keep_largest(pre, count):
    last = pre.flatten().topk(count).values[-1]
    return torch.where((pre >= last) & (pre > 0), pre, 0)


def test_the_gradient_of_a_threshold_is_that_of_a_smeared_step():
    """Averaged over a dense grid of pre-activations, the estimate is the derivative of the expected loss."""
    pre = torch.linspace(-1, 3, 400_001, dtype=torch.float64)
    density = 1 / 4  # of pre-activations per unit, uniform
    threshold = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    f, count = _Jump.apply(pre, threshold, 0.2)
    (of_f,) = torch.autograd.grad(f.mean(), threshold, retain_graph=True)
    (of_count,) = torch.autograd.grad(count.mean(), threshold)
    # E f = ∫_θ^3 z/4 dz and E count = ∫_θ^3 1/4 dz
    assert of_f.item() == pytest.approx(-1.5 * density, rel=1e-3)
    assert of_count.item() == pytest.approx(-density, rel=1e-3)


AXES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
X = torch.tensor([[3.0, 1.0], [0.0, -2.0]])
"""With decoder rows along the axes and no bias, f is [[3, 1, 0, 0], [0, 0, 0, 2]].
Variance about the mean (1.5, -0.5): (2.25 + 2.25) for each of two tokens."""


def on_axes(cls, config):
    sae = cls(config)
    with torch.no_grad():
        sae.W_dec.copy_(AXES)
        sae.W_enc.copy_(AXES.t())
    return sae


def test_standard_by_hand():
    sae = on_axes(Standard, StandardConfig(d_in=2, d_sae=4, l1_coefficient=0.1))
    losses = sae.losses(Batch.of(X, sparsity=0.5))
    assert losses.mse == 0
    assert losses.total.item() == pytest.approx(0.5 * 0.1 * (4 + 2) / 2)
    assert losses.l0 == 1.5
    assert losses.active.tolist() == [True, True, False, True]


def test_gated_by_hand():
    sae = on_axes(Gated, GatedConfig(d_in=2, d_sae=4, l1_coefficient=0.1))
    with torch.no_grad():
        sae.b_enc[1] = -1.5  # the gate of the 1 closes: it is left out, and its gate is -0.5
        sae.r_mag[0] = math.log(2)  # the 3 becomes 6
        sae.b_mag[3] = 1  # the 2 becomes 3
    assert sae.encode(X).tolist() == [[6, 0, 0, 0], [0, 0, 0, 3]]
    losses = sae.losses(Batch.of(X))
    assert losses.mse == (3**2 + 1 + 1) / 2
    # relu of the gates: 3 and 2; decoded, they leave the 1.
    assert losses.total.item() == pytest.approx(11 / 2 + 0.1 * 5 / 2 + 1 / 2)
    inference = sae.for_inference()
    assert isinstance(inference, JumpReLU)
    assert inference.encode(X).tolist() == [[6, 0, 0, 0], [0, 0, 0, 3]]


def test_topk_and_batchtopk_by_hand():
    topk = on_axes(TopK, TopKConfig(d_in=2, d_sae=4, k=1))
    losses = topk.losses(Batch.of(X))  # leaves out the 1
    assert losses.mse == 0.5
    assert losses.total.item() == pytest.approx(0.5 / 4.5)
    assert (losses.l0, losses.active.tolist()) == (1, [True, False, False, True])
    batchtopk = on_axes(BatchTopK, TopKConfig(d_in=2, d_sae=4, k=1))
    assert batchtopk.losses(Batch.of(X)).active.tolist() == [True, False, False, True]  # 3 and 2 beat 1
    assert batchtopk.threshold == 2


def test_jumprelu_by_hand():
    sae = on_axes(JumpReLU, JumpReLUConfig(d_in=2, d_sae=4, k=2, l0_coefficient=7.0))
    with torch.no_grad():
        sae.threshold.fill_(1.0)  # what equals its threshold is not active
    losses = sae.losses(Batch.of(X, sparsity=0.5))
    assert (losses.mse, losses.l0) == (0.5, 1)
    assert losses.total.item() == pytest.approx(0.5 / 4.5 + 0.5 * 7 * (1 / 2 - 1) ** 2)


def test_matryoshka_by_hand():
    sae = on_axes(MatryoshkaBatchTopK, MatryoshkaConfig(d_in=2, d_sae=4, k=2, prefixes=(0.25, 0.5, 1.0)))
    losses = sae.losses(Batch.of(X))
    # The first feature leaves 1² and 2²; the first two leave 2²; all of them nothing.
    assert losses.total.item() == pytest.approx((5 / 2 + 4 / 2 + 0) / 3 / 4.5)
    assert (losses.mse, losses.l0) == (0, 1.5)
    for prefixes in ((), (0.5,), (0.5, 0.2, 1.0), (0.0, 1.0)):
        with pytest.raises(SAEError, match="ascending shares"):
            MatryoshkaBatchTopK(MatryoshkaConfig(d_in=2, d_sae=4, prefixes=prefixes))


def test_a_skip_transcoder_by_hand():
    sae = Standard(StandardConfig(d_in=2, d_sae=1, d_out=1, skip=True, l1_coefficient=0.0))
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0], [0.0]]))
        sae.W_dec.fill_(10)
        sae.b_dec.fill_(5)  # which is not taken off the input
        sae.W_skip.copy_(torch.tensor([[0.0], [100.0]]))
    assert sae(X).tolist() == [[3 * 10 + 100 + 5], [-200 + 5]]
    assert sae.losses(Batch.of(X, torch.tensor([[135.0], [-195.0]]))).mse == 0
    with pytest.raises(SAEError, match=r"sae\.decode\(f, x\)"):
        sae.decode(sae.encode(X))


def test_a_skip_connection_is_for_transcoders():
    with pytest.raises(SAEError, match="could pass its input through"):
        TopK(TopKConfig(d_in=2, d_sae=4, skip=True))


def test_auxk_decodes_the_error_without_the_bias():
    sae = TopK(TopKConfig(d_in=2, d_sae=3, k=1))
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        sae.W_enc.copy_(sae.W_dec.t())
        sae.b_dec.copy_(torch.tensor([10.0, 20.0]))
    x = torch.tensor([[13.0, 21.0]])  # feature 0 gives 3 of (3, 1); the error is (0, 1)
    error = torch.tensor([[0.0, 1.0]])
    assert auxk(sae, Batch.of(x, dead=torch.tensor([1, 2])), error) == 0  # feature 1 explains all of it
    assert auxk(sae, Batch.of(x, dead=torch.tensor([2])), error) == 1  # feature 2 is not active: nothing explained
    assert auxk(sae, Batch.of(x), error) == 0


def test_auxk_gradients_reach_dead_features_only():
    sae = make("topk")
    dead = torch.tensor([4, 7, 11, 15])  # more than d_in / 2
    batch = batch_for(sae, dead=dead)
    error = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    auxk(sae, batch, error).backward()
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


def test_a_feature_starts_as_what_tells_one_activation_from_the_others():
    """No direction sets an activation further apart, in standard deviations, than its Mahalanobis distance."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4_000, 32, generator=generator) * torch.logspace(0.5, -0.5, 32)
    sae = TopK(TopKConfig(d_in=32, d_sae=100, k=3))
    sae.initialise(x, seed=0)
    centred = x - x.mean(dim=0)
    distances = torch.linalg.vecdot(centred, torch.linalg.solve(torch.cov(x.t()), centred.t()).t()).sqrt()

    def most_apart(directions):
        along = centred @ directions.t()
        return (along / along.std(dim=0) / distances[:, None]).amax(dim=0)

    assert most_apart(sae.W_dec.detach()).min() > 0.92  # ridge and jitter
    assert most_apart(torch.randn(100, 32, generator=generator)).max() < 0.9


def test_equal_activations_start_different_features():
    x = activations(40)
    x[:20] = x[0]
    sae = TopK(TopKConfig(d_in=x.shape[1], d_sae=60, k=3))
    sae.initialise(x, seed=0)
    assert all(parameter.isfinite().all() for parameter in sae.parameters())
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(60))
    near = sae.W_dec @ sae.W_dec.t() - torch.eye(60)
    assert near.max() < 0.9999


def test_start_values_of_a_transcoder():
    sae = TopK(TopKConfig(d_in=D_IN, d_sae=20, k=3, d_out=D_OUT))
    x, y = activations(500), 100 * activations(500, D_OUT)
    sae.initialise(x, seed=0, target=y)
    torch.testing.assert_close(sae.W_enc.norm(dim=0), torch.ones(20))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert (x * sae.input_scale).norm(dim=1).mean().item() == pytest.approx(D_IN**0.5)
    assert (y * sae.output_scale).norm(dim=1).mean().item() == pytest.approx(D_OUT**0.5)
    torch.testing.assert_close(sae.b_dec, geometric_median(y * sae.output_scale))
    at_median = sae.pre_activations(geometric_median(x * sae.input_scale)[None])
    torch.testing.assert_close(at_median, torch.zeros(1, 20), rtol=0, atol=1e-5)


def test_a_transcoders_features_start_active_where_what_they_write_is_needed():
    """Target = input times a matrix, and inputs of very unequal variance: the regression gives the matrix back."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3_000, D_IN, generator=generator) * torch.logspace(-0.5, 0.5, D_IN)
    layer = torch.randn(D_IN, D_OUT, generator=generator) / torch.logspace(-0.5, 0.5, D_IN)[:, None]
    sae = TopK(TopKConfig(d_in=D_IN, d_sae=20, k=3, d_out=D_OUT))
    sae.initialise(x, seed=0, target=x @ layer + 5)
    pre = sae.pre_activations(x * sae.input_scale).detach()
    written = (x @ layer) @ sae.W_dec.detach().t()
    correlations = [float(torch.corrcoef(torch.stack([pre[:, i], written[:, i]]))[0, 1]) for i in range(20)]
    assert min(correlations) > 0.9


def test_a_transcoder_of_a_constant_input_or_target_starts_with_numbers():
    sae = TopK(TopKConfig(d_in=D_IN, d_sae=20, k=3, d_out=D_OUT))
    sae.initialise(activations(50), seed=0, target=torch.ones(50, D_OUT))
    assert all(parameter.isfinite().all() for parameter in sae.parameters())
    x = activations(50)
    x[:, 2:] = 1.0
    sae.initialise(x, seed=0, target=activations(50, D_OUT))
    assert all(parameter.isfinite().all() for parameter in sae.parameters())


@pytest.mark.parametrize("factor", [0.8, 1, 1.4])
def test_calibrating_a_jumprelu_moves_all_thresholds_by_one_factor_to_an_l0_of_k(factor):
    sae = JumpReLU(JumpReLUConfig(d_in=D_IN, d_sae=40, k=3))
    x = torch.randn(3000, D_IN, generator=torch.Generator().manual_seed(0))
    sae.initialise(x, seed=0)
    with torch.no_grad():
        sae.threshold.mul_(factor * torch.linspace(0.8, 1.2, 40))
    before = sae.threshold.detach().clone()
    away = float((sae.encode(x) > 0).sum(dim=1).float().mean())
    sae.calibrate(x)
    l0 = float((sae.encode(x) > 0).sum(dim=1).float().mean())
    assert l0 == pytest.approx(3, abs=1e-3)
    assert abs(away - 3) > 0.02
    ratio = sae.threshold / before
    torch.testing.assert_close(ratio, ratio[:1].expand(40))


def test_calibrating_lowers_thresholds_by_half_the_bandwidth_at_most():
    sae = JumpReLU(JumpReLUConfig(d_in=D_IN, d_sae=40, k=3))
    x = torch.randn(3000, D_IN, generator=torch.Generator().manual_seed(0))
    sae.initialise(x, seed=0)
    with torch.no_grad():
        sae.threshold.mul_(4)
    before = sae.threshold.detach().clone()
    sae.calibrate(x)
    ratio = sae.threshold / before
    torch.testing.assert_close(ratio, ratio[:1].expand(40))
    assert 1 - sae.config.bandwidth / 2 <= ratio[0] < 1
    assert (sae.encode(x) > 0).sum(dim=1).double().mean() < 3


def test_thresholds_of_zero_stay_zero_when_they_are_calibrated():
    sae = JumpReLU(JumpReLUConfig(d_in=D_IN, d_sae=40, k=3))
    x = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(0))
    sae.initialise(x, seed=0)
    with torch.no_grad():
        sae.threshold.zero_()
    sae.calibrate(x)
    assert not sae.threshold.any()


def test_jumprelu_starts_with_the_l0_that_it_aims_at():
    sae = JumpReLU(JumpReLUConfig(d_in=D_IN, d_sae=40, k=3))
    x = activations(1_000)
    sae.initialise(x, seed=0)
    l0 = (sae.encode(x * sae.input_scale) > 0).sum(dim=1).double().mean()
    assert l0.item() == pytest.approx(3, abs=0.01)
    with pytest.raises(SAEError, match="between 0 and 2"):
        JumpReLU(JumpReLUConfig(d_in=D_IN, d_sae=40, bandwidth=2.0))


@every_architecture_and_kind
def test_folding_the_scales_is_exact(architecture, kind):
    sae = make(architecture, kind)
    if isinstance(sae, BatchTopK):
        sae.threshold.fill_(1.0)
    inference = sae.for_inference()
    x = activations().double()
    assert abs(sae.input_scale - 1) > 0.1
    assert inference.input_scale == inference.output_scale == 1
    assert not any(parameter.requires_grad for parameter in inference.parameters())
    pre = sae.pre_activations(x * sae.input_scale)
    f = torch.where(pre > sae.threshold, pre, 0) if isinstance(sae, BatchTopK) else sae.activate(pre)
    assert 0.02 < (f > 0).double().mean() < 0.98
    torch.testing.assert_close(inference.encode(x) * sae.output_scale, f, rtol=1e-12, atol=1e-12)
    expected = f @ sae.W_dec + sae.b_dec + sae.skipped(x * sae.input_scale)
    torch.testing.assert_close(inference(x) * sae.output_scale, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inference.W_dec, sae.W_dec)
    assert inference.k == sae.k


def test_batchtopk_is_a_jumprelu_at_inference():
    sae = make("batchtopk")
    sae.losses(batch_for(sae))
    inference = sae.for_inference()
    assert isinstance(inference, JumpReLU)
    x = activations().double()
    # Every selected entry but the smallest lies above the batch's own threshold; that one is it, but for rounding.
    assert (inference.encode(x) > 0).sum() - 3 * len(x) in (-1, 0)


def test_the_threshold_is_a_running_mean_of_the_smallest_activation():
    sae = BatchTopK(TopKConfig(d_in=2, d_sae=4, k=1))
    grid = Batch.of(X).grid
    sae.observe(torch.tensor([3.0, 2.0]), grid)
    assert sae.threshold == 2
    sae.observe(torch.tensor([3.0, 5.0]), grid)
    assert sae.threshold.item() == pytest.approx(0.9 * 2 + 0.1 * 3)
    sae.observe(torch.tensor([]), grid)
    assert sae.threshold.item() == pytest.approx(2.1)


def test_a_negative_threshold_never_gives_a_negative_activation():
    sae = JumpReLU(JumpReLUConfig(d_in=1, d_sae=1))
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


def test_layer_norm_is_per_token_and_undone():
    sae = on_axes(Standard, StandardConfig(d_in=2, d_sae=4, normalize_activations="layer_norm"))
    x = torch.tensor([[3.0, 1.0], [10.0, 14.0]])  # means 2 and 12, standard deviations √2 and √8
    f = sae.encode(x)
    half = 0.5**0.5
    torch.testing.assert_close(f, torch.tensor([[half, 0, 0, half], [0, half, half, 0]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae(x), x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decode(f, x), x, rtol=1e-4, atol=1e-4)


def test_constant_norm_is_per_token_and_undone():
    sae = on_axes(Standard, StandardConfig(d_in=2, d_sae=4, normalize_activations="constant_norm_rescale"))
    x = torch.tensor([[3.0, 4.0], [0.0, -7.0]])
    expected = 2**0.5 * torch.tensor([[0.6, 0.8, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(sae.encode(x), expected)
    torch.testing.assert_close(sae(x), x)
    with pytest.raises(SAEError, match="normalised by 'sideways'"):
        Standard(StandardConfig(d_in=2, d_sae=4, normalize_activations="sideways"))


def test_encode_takes_any_leading_dimensions_but_no_other_width():
    sae = make("topk").for_inference()
    x = activations().double().view(4, 16, D_IN)
    torch.testing.assert_close(sae.encode(x).view(64, D_SAE), sae.encode(x.view(64, D_IN)))
    assert sae(x).shape == x.shape
    assert sae.encode(x[0, 0]).shape == (D_SAE,)
    torch.testing.assert_close(sae.decode(sae.encode(x)), sae(x))
    with pytest.raises(SAEError, match="reads 6 dimensions, not 5"):
        sae.encode(x[..., :5])


def test_repr_shows_sizes_and_origin():
    sae = make("topk", "transcoder")
    sae.metadata = {"model_name": "<b>tiny</b>", "hook_name": "blocks.0.mlp.hook_in"}
    text = repr(sae)
    assert text.startswith("TopK(d_in=6, d_sae=20, d_out=5, k=3, model=<b>tiny</b>, hook=blocks.0.mlp.hook_in")
    page = sae._repr_html_()
    assert "topk transcoder" in page
    assert "&lt;b&gt;tiny" in page and "<b>" not in page


def test_the_registry_names_each_architecture_once():
    assert {name: cls.architecture for name, cls in ARCHITECTURES.items()} == {name: name for name in ARCHITECTURES}
    assert all(issubclass(cls.Config, SAEConfig) for cls in ARCHITECTURES.values())


@pytest.mark.parametrize("normalisation", sorted(NORMALISATIONS))
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_encode_sparse_equals_encode(architecture, normalisation):
    sae = make(architecture, normalize_activations=normalisation).for_inference()
    x = activations().double()
    f = sae.encode(x)
    active, values = sae.encode_sparse(x)
    assert 0 < len(values) < f.numel()
    assert torch.equal(active.dense(values), f)
    assert (active.rows.diff() >= 0).all()
