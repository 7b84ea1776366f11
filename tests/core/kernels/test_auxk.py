import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from sae_core.kernels.gpu.auxk import Dead, add_auxk, select
from sae_core.saes import Batch
from sae_core.saes.auxk import auxk
from sae_core.saes.topk import TopK, TopKConfig
from tests.core.kernels.problems import close, random, tied


def problem(batch, d_in, d_sae, share, device):
    sae = TopK(TopKConfig(d_in=d_in, d_sae=d_sae, k=1)).double().to(device)
    with torch.no_grad():
        for seed, parameter in enumerate(sae.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed))
    x, error = random(batch, d_in, seed=20, device=device), random(batch, d_in, seed=21, device=device)
    is_dead = torch.rand(d_sae, generator=torch.Generator().manual_seed(d_sae)).to(device) < share
    return sae, x, error, is_dead


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
@pytest.mark.parametrize(
    ("batch", "d_in", "d_sae"), [(1, 2, 7), (3, 5, 130), (65, 33, 130), (70, 130, 75), (2, 9, 1100)]
)
def test_loss_and_gradients_are_those_of_the_ordinary_auxk_in_float64(device, batch, d_in, d_sae, share):
    sae, x, error, is_dead = problem(batch, d_in, d_sae, share, device)
    loss = auxk(sae, Batch.of(x.double(), dead=is_dead.nonzero().squeeze(1)), error.double()) / 32
    if loss.requires_grad:
        loss.backward()

    def start(seed, parameter):
        return random(*parameter.shape, seed=seed, device=device)

    before = (start(1, sae.W_dec), start(2, sae.W_dec), start(3, sae.b_enc))
    gradients = tuple(gradient.clone() for gradient in before)
    centred = x - sae.b_dec.detach().float()
    ours = add_auxk(
        Dead.of(is_dead), sae.pre_activations(x.double()).detach().float(), centred, sae.W_dec.detach().float(),
        error, error.square().sum(), 1 / 32, gradients,
    )  # fmt: skip
    close(ours, loss.detach())
    for gradient, offset, plain in zip(gradients, before, (sae.W_dec, sae.W_enc.t(), sae.b_enc), strict=True):
        parameter = sae.W_enc if plain.shape == sae.W_enc.t().shape and plain is not sae.W_dec else plain
        expected = torch.zeros_like(plain) if parameter.grad is None else parameter.grad
        expected = expected.t() if parameter is sae.W_enc and parameter.grad is not None else expected
        close(gradient - offset, expected, 3e-6 * max(1.0, 1 / float(expected.abs().max().clamp(min=1e-6))))


def test_without_dead_features_nothing_is_added(device):
    sae, x, error, _ = problem(4, 5, 40, 0.5, device)
    gradients = tuple(torch.ones(shape, device=device) for shape in ((40, 5), (40, 5), (40,)))
    loss = add_auxk(
        Dead.of(torch.zeros(40, dtype=torch.bool, device=device)), torch.ones(4, 40, device=device), x,
        sae.W_dec.detach().float(), error, error.square().sum(), 1 / 32, gradients,
    )  # fmt: skip
    assert float(loss) == 0
    assert all(bool((gradient == 1).all()) for gradient in gradients)


def test_dead_features_are_listed_ascending(device):
    dead = Dead.of(torch.tensor([False, True, False, True, True], device=device))
    assert int(dead.count) == 3 and dead.features[:3].tolist() == [1, 3, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most", [1, 40, 700, 3000])
def test_the_largest_dead_features_take_part_when_many_tie(device, most, dtype):
    pre = tied(2, 2600, seed=1, device=device, dtype=dtype)  # in three blocks
    is_dead = torch.rand(2600, generator=torch.Generator().manual_seed(0)).to(device) < 0.9
    f = select(Dead.of(is_dead), pre, most)[:, : int(is_dead.sum())]
    assert torch.equal(f[f > 0], pre[:, is_dead][f > 0])
    expected = pre[:, is_dead].clamp(min=0).sort(dim=1, descending=True).values[:, :most]
    assert torch.equal(f.sort(dim=1, descending=True).values[:, :most], expected)
    assert int((f > 0).sum()) == int((expected > 0).sum())
