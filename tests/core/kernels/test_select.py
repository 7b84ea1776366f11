import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from sae_core import kernels
from sae_core.kernels import gpu
from sae_core.kernels.gpu.product import GROUP, group_peaks, pre_activations
from sae_core.kernels.gpu.select import batch_topk, row_topk
from tests.core.kernels.problems import BF16, SHAPES, close, random, tied


def dense(entries, pre):
    """What was selected, among zeros; empty places go where nobody looks."""
    batch, d_sae = pre.shape
    result = torch.zeros(batch + 1, d_sae + 1, device=pre.device)
    result[entries.rows.long(), entries.features.long()] = entries.values
    return result[:batch, :d_sae]


def check_entries(entries, pre):
    """Values are those of their places, rows and features ascend, and starts and ends say where rows are."""
    selected = dense(entries, pre)
    active = selected > 0
    assert torch.equal(selected[active], pre.float()[active])
    assert int((entries.values > 0).sum()) == int(active.sum()), "no place is taken twice"
    is_empty = entries.features == pre.shape[1]
    assert not entries.values[is_empty].any()
    for row, (start, end) in enumerate(zip(entries.starts.tolist(), entries.ends.tolist(), strict=True)):
        features = entries.features[start:end].tolist()
        assert features == active[row].nonzero().squeeze(1).tolist() == sorted(features)
        assert set(entries.rows[start:end].tolist()) <= {row}
    return selected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "d_in", "d_sae", "k"), SHAPES)
def test_product_is_that_of_float64_and_peaks_are_those_of_its_groups(device, batch, d_in, d_sae, k, dtype):
    x = random(batch, d_in, seed=1, device=device, dtype=dtype)
    encoder = random(d_sae, d_in, seed=2, device=device, dtype=dtype)
    bias = random(d_sae, seed=3, device=device)
    pre, peaks = pre_activations(x, encoder, bias)
    close(pre, x.double() @ encoder.double().t() + bias.double(), 1e-6 if dtype == torch.float32 else BF16)
    expected = torch.stack([group.amax(dim=1) for group in pre.split(GROUP, dim=1)], dim=1)
    assert torch.equal(peaks, expected)
    assert torch.equal(group_peaks(pre), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [random, tied])
@pytest.mark.parametrize(("batch", "d_in", "d_sae", "k"), SHAPES)
def test_rows_keep_what_a_sort_keeps(device, batch, d_in, d_sae, k, make, dtype):
    pre = make(min(batch, 9), d_sae, seed=d_sae, device=device, dtype=dtype)
    selected = check_entries(row_topk(pre, group_peaks(pre), k), pre)
    expected = pre.float().clamp(min=0).sort(dim=1, descending=True).values[:, :k]
    assert torch.equal(selected.sort(dim=1, descending=True).values[:, :k], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [random, tied])
@pytest.mark.parametrize(("batch", "d_in", "d_sae", "k"), SHAPES)
def test_batches_keep_what_a_sort_keeps(device, batch, d_in, d_sae, k, make, dtype):
    pre = make(batch, d_sae, seed=d_sae, device=device, dtype=dtype)
    for count in {1, batch * k, max(1, batch * d_sae // 3), batch * d_sae}:
        selected = check_entries(batch_topk(pre, group_peaks(pre), count), pre)
        expected = pre.float().clamp(min=0).flatten().sort(descending=True).values[:count]
        assert torch.equal(selected.flatten().sort(descending=True).values[:count], expected)


def test_selection_reads_as_many_groups_as_there_are_places(device):
    """The largest are all in groups of their own, the last of them the smallest peak that counts."""
    pre = torch.full((2, 8 * GROUP), 0.5, device=device)
    pre[:, 5::GROUP] = torch.arange(1.0, 9.0, device=device)
    pre[1] = pre[1].flip(0)
    for k in (1, 5, 8):
        for entries in (row_topk(pre, group_peaks(pre), k), batch_topk(pre, group_peaks(pre), 2 * k)):
            selected = check_entries(entries, pre)
            assert selected.sort(dim=1, descending=True).values[:, :k].tolist() == 2 * [[*range(8, 8 - k, -1)]]


def test_tiny_and_infinite_values_order_as_others_do(device):
    pre = torch.tensor([[1e-40, torch.inf, 3e38, -torch.inf, 0.0, -0.0, 1e-45]], device=device)
    for count, kept in ((1, [1]), (3, [0, 1, 2]), (7, [0, 1, 2, 6])):
        for entries in (row_topk(pre, group_peaks(pre), count), batch_topk(pre, group_peaks(pre), count)):
            assert entries.features[entries.values > 0].tolist() == kept


@pytest.mark.parametrize("make", [random, tied])
def test_the_ordinary_signatures_select_the_same_by_these_kernels(device, monkeypatch, make):
    pre = make(7, 130, seed=5, device=device)
    selections = []
    for runs in (False, True):
        monkeypatch.setattr(gpu, "runs_on", lambda *tensors, runs=runs: runs)
        selections.append((kernels.topk(pre, 6), kernels.batch_topk(pre, 42)))
    for plain, ours in zip(*selections, strict=True):
        assert torch.equal(plain.values(pre).sort().values, ours.values(pre).sort().values)
        assert (ours.rows * 130 + ours.features).diff().min() > 0
