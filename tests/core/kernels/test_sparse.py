import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from sae_core import kernels
from sae_core.kernels import gpu
from sae_core.kernels.gpu import sparse
from sae_core.kernels.gpu.product import group_peaks
from sae_core.kernels.gpu.select import batch_topk, row_topk
from sae_core.kernels.gpu.sparse import ByFeature, decode, entry_products, reconstruct, sum_by_feature
from tests.core.kernels.problems import SHAPES, close, random


def problem(batch, d_sae, k, select, device):
    pre = random(batch, d_sae, seed=batch, device=device)
    if select == "rows":
        return row_topk(pre, group_peaks(pre), k)
    return batch_topk(pre, group_peaks(pre), batch * k)


def dense(entries, weights, batch):
    """Weights as a matrix in float64, which a plain product takes."""
    matrix = torch.zeros(batch + 1, entries.d_sae + 1, dtype=torch.float64, device=weights.device)
    matrix[entries.rows.long(), entries.features.long()] = weights.double()
    return matrix[:batch, : entries.d_sae]


@pytest.mark.parametrize("select", ["rows", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "d_in", "d_sae", "k"), SHAPES)
def test_decode_and_gradients_are_those_of_dense_products_in_float64(device, batch, d_in, d_sae, k, dtype, select):
    entries = problem(batch, d_sae, k, select, device)
    decoder = random(d_sae, d_in, seed=6, device=device, dtype=dtype)
    gradient = random(batch, d_in, seed=7, device=device, dtype=dtype)
    f = dense(entries, entries.values, batch)
    place = (entries.features, entries.starts, entries.ends)
    close(decode(entries.values, *place, decoder), f @ decoder.double())

    products = entry_products(*place, decoder, gradient.float())
    expected = gradient.double() @ decoder.double().t()
    close(dense(entries, products, batch), torch.where(f > 0, expected, 0))
    assert not products[entries.features == d_sae].any()

    grouped = ByFeature.of(entries.features, d_sae)
    factor = torch.tensor(-0.5, device=device)
    sums, totals = sum_by_feature(grouped, entries.values, entries.rows, gradient, factor)
    close(sums, -0.5 * f.t() @ gradient.double())
    close(totals, -0.5 * f.sum(dim=0))
    assert torch.equal(grouped.is_active(), f.any(dim=0))


@pytest.mark.parametrize(("batch", "d_in", "d_sae", "k"), SHAPES)
def test_reconstruct_is_decode_compare_and_the_gradient_of_values(device, batch, d_in, d_sae, k):
    entries = problem(batch, d_sae, k, "batch", device)
    decoder = random(d_sae, d_in, seed=6, device=device)
    rows, b_dec = random(batch, d_in, seed=8, device=device), random(d_in, seed=9, device=device)
    scale, factor = torch.tensor(1.7, device=device), torch.tensor(-0.3, device=device)
    errors, squared_norms, gradients = reconstruct(entries, decoder, rows, scale, b_dec, factor)
    f = dense(entries, entries.values, batch)
    expected = rows.double() * scale.double() - b_dec.double() - f @ decoder.double()
    close(errors, expected)
    close(squared_norms, expected.square().sum(dim=1))
    of_f = factor.double() * expected @ decoder.double().t()
    close(dense(entries, gradients, batch), torch.where(f > 0, of_f, 0))


def test_features_of_many_entries_are_summed_in_parts(device, monkeypatch):
    """One feature is on in all rows, others in some or none; parts are short enough to need several."""
    monkeypatch.setattr(sparse, "PART", 4)
    features = torch.tensor([2, 2, 5, 2, 0, 2, 2, 2, 7, 2, 2, 5, 7, 2], dtype=torch.int32, device=device)
    weights = random(14, seed=1, device=device)
    rows = torch.arange(14, dtype=torch.int32, device=device)
    matrix = random(14, 33, seed=2, device=device)
    sums, totals = sum_by_feature(ByFeature.of(features, 7), weights, rows, matrix)  # 7 marks empty places
    expected = torch.zeros(8, 33, dtype=torch.float64, device=device)
    expected.index_add_(0, features, weights.double()[:, None] * matrix.double())
    close(sums, expected[:7])
    close(totals, torch.zeros(8, device=device).index_add_(0, features, weights)[:7])


def test_a_batch_without_active_features_gives_zeros(device):
    pre = -torch.ones(3, 40, device=device)
    entries = batch_topk(pre, group_peaks(pre), 6)
    decoder = random(40, 5, seed=0, device=device)
    place = (entries.features, entries.starts, entries.ends)
    assert not decode(entries.values, *place, decoder).any()
    assert not entry_products(*place, decoder, torch.ones(3, 5, device=device)).any()
    grouped = ByFeature.of(entries.features, 40)
    sums, totals = sum_by_feature(grouped, entries.values, entries.rows, torch.ones(3, 5, device=device))
    assert not sums.any() and not totals.any() and not grouped.is_active().any()


@pytest.mark.parametrize("select", [lambda pre: kernels.topk(pre, 3), lambda pre: kernels.batch_topk(pre, 13)])
def test_autograd_through_the_ordinary_signatures_is_the_same_in_float64(device, monkeypatch, select):
    def gradients(runs):
        monkeypatch.setattr(gpu, "runs_on", lambda *tensors: runs)
        x = random(6, 5, seed=0, device=device, dtype=torch.float64)
        shapes = ((11, 5), (11,), (5,), (11, 5))
        parameters = [random(*shape, seed=9 + n, device=device, dtype=torch.float64) for n, shape in enumerate(shapes)]
        W_enc, b_enc, b_dec, W_dec = (parameter.requires_grad_() for parameter in parameters)
        W_enc = W_enc.t()
        with torch.no_grad():
            pre = torch.addmm(b_enc, x - b_dec, W_enc)
            monkeypatch.setattr(gpu, "selects", lambda *_: False)
            selection = select(pre)
        values = kernels.active_values(pre, x, W_enc, b_enc, b_dec, selection)
        decoded = kernels.decode(values, W_dec, selection)
        return decoded, *torch.autograd.grad((x - b_dec - decoded).square().mean(), parameters)

    for ours, plain in zip(gradients(True), gradients(False), strict=True):
        close(ours, plain, 1e-13)
