import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

from sae_core.kernels import above, active_values, batch_topk, decode, topk
from sae_core.kernels.selection import _largest_reference
from sae_core.kernels.sparse import active_values_reference, decode_reference


def flat_positions(selection):
    return (selection.rows * selection.d_sae + selection.features).tolist()


@pytest.mark.parametrize("count", [1, 320, 5_000, 20_000])
def test_batch_topk_selects_what_a_full_sort_selects(count):
    pre = torch.randn(64, 512, generator=torch.Generator().manual_seed(count))
    expected = _largest_reference(pre.flatten(), count).tolist()
    assert flat_positions(batch_topk(pre, count)) == expected


def test_batch_topk_is_exact_where_the_sample_misleads():
    # Large values sit in 40 columns of one row, so almost any sample of the batch misses or overcounts them.
    pre = torch.zeros(512, 1024)
    pre[::7, 5:45] = torch.rand(74, 40, generator=torch.Generator().manual_seed(0)) + 1
    pre[3] = torch.rand(1024, generator=torch.Generator().manual_seed(1)) / 2
    for count in (10, 500, 2_960, 3_500):
        assert flat_positions(batch_topk(pre, count)) == _largest_reference(pre.flatten(), count).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 40), st.integers(1, 6))
def test_ties_give_exactly_the_count(seed, batch, d_sae, levels):
    pre = torch.randint(-2, levels, (batch, d_sae), generator=torch.Generator().manual_seed(seed)).float()
    count = int(torch.randint(1, batch * d_sae + 1, (), generator=torch.Generator().manual_seed(seed + 1)))
    selection = batch_topk(pre, count)
    positive = int((pre > 0).sum())
    assert len(selection.rows) == len(set(flat_positions(selection))) == min(count, positive)
    kept = selection.values(pre).sort(descending=True).values
    assert kept.tolist() == pre.flatten().sort(descending=True).values[: len(kept)].tolist()


def test_topk_by_hand():
    pre = torch.tensor([[1.0, 5.0, 3.0, -1.0], [-4.0, -3.0, 2.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    expected = torch.tensor([[0.0, 5.0, 3.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    selection = topk(pre, 2)
    assert selection.dense(selection.values(pre)).tolist() == expected.tolist()
    assert selection.active(selection.values(pre)).tolist() == [False, True, True, False]


def test_batch_topk_by_hand():
    pre = torch.tensor([[1.0, 5.0, 3.0, 4.0], [-4.0, -3.0, 2.0, -1.0]])
    selection = batch_topk(pre, 3)
    assert selection.dense(selection.values(pre)).tolist() == [[0, 5, 3, 4], [0, 0, 0, 0]]


def sparse_problem(d_sae=11):
    generator = torch.Generator().manual_seed(7)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = random(6, 5)
    parameters = [
        random(d_sae, 5).t().requires_grad_(),
        random(d_sae).requires_grad_(),
        random(5).requires_grad_(),
        random(d_sae, 5).requires_grad_(),
    ]
    return x, parameters


@pytest.mark.parametrize("select", [lambda pre: topk(pre, 3), lambda pre: batch_topk(pre, 13)])
def test_gradients_are_those_of_dense_autograd(select):
    x, parameters = sparse_problem()
    W_enc, b_enc, b_dec, W_dec = parameters
    with torch.no_grad():
        pre = torch.addmm(b_enc, x - b_dec, W_enc)
        selection = select(pre)
    sparse = decode(active_values(pre, x, W_enc, b_enc, b_dec, selection), W_dec, selection) + b_dec
    dense = decode_reference(active_values_reference(x, W_enc, b_enc, b_dec, selection), W_dec, selection) + b_dec
    torch.testing.assert_close(sparse, dense)
    of_sparse = torch.autograd.grad(mse_loss(sparse, x), parameters)
    of_dense = torch.autograd.grad(mse_loss(dense, x), parameters)
    torch.testing.assert_close(of_sparse, of_dense)
    assert of_sparse[0].stride() == W_enc.stride()  # the optimiser takes it without a copy


def test_gradients_agree_with_finite_differences():
    x, parameters = sparse_problem()
    W_enc, b_enc, b_dec, _ = parameters
    selection = batch_topk(torch.addmm(b_enc, x - b_dec, W_enc).detach(), 13)

    def reconstruction(W_enc, b_enc, b_dec, W_dec):
        pre = torch.addmm(b_enc, x - b_dec, W_enc).detach()
        return decode(active_values(pre, x, W_enc, b_enc, b_dec, selection), W_dec, selection) + b_dec

    assert torch.autograd.gradcheck(reconstruction, parameters)


def test_a_batch_without_active_features_decodes_to_zero_and_has_zero_gradients():
    x, parameters = sparse_problem()
    W_enc, b_enc, b_dec, W_dec = parameters
    pre = torch.full((6, 11), -1.0, dtype=torch.float64)
    selection = batch_topk(pre, 5)
    decoded = decode(active_values(pre, x, W_enc, b_enc, b_dec, selection), W_dec, selection)
    gradients = torch.autograd.grad(decoded.sum(), parameters)
    assert decoded.abs().max() == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_above_takes_what_exceeds_its_features_floor_and_zero():
    pre = torch.tensor([[1.0, 5.0, -1.0], [2.0, 4.0, 0.0]])
    selection = above(pre, torch.tensor([1.0, 3.0, -2.0]))
    assert selection.dense(selection.values(pre)).tolist() == [[0, 5, 0], [2, 4, 0]]
