import logging

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from sae_core.kernels import gpu
from sae_core.training import gpu_step, loop, train
from sae_core.training.self_check import disagreement
from tests.core.kernels.problems import close
from tests.core.training.test_gpu_step import BATCH, D_IN, Batches, TrainingConfig, batch


def config(**options):
    defaults = {"architecture": "topk", "d_sae": 70, "k": 2, "batch_size": BATCH, "samples": 4 * BATCH, "lr": 1e-3}
    return TrainingConfig(**(defaults | options))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_kernels_that_are_right_agree(device, architecture, precision):
    asked = config(architecture=architecture, precision=precision).resolved()
    assert disagreement(asked, D_IN, None, batch(0, device)) is None


def test_the_check_leaves_kernels_disabled(device):
    assert disagreement(config().resolved(), D_IN, None, batch(0, device)) is None
    assert not gpu.runs_on(batch(0, device))


def wrong_gradient(grouped, values, rows, x, *factor, _sum=gpu_step.sum_by_feature):
    total, of_bias = _sum(grouped, values, rows, x, *factor)
    return -total, of_bias


def wrong_selection(pre, peaks, k, _select=gpu_step.row_topk):
    return _select(pre, peaks, k - 1)


def no_kernel(*_arguments):
    raise RuntimeError("out of resource: shared memory")


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("sum_by_feature", wrong_gradient, "instead of"),
        ("row_topk", wrong_selection, "at step 1 the loss is"),
        ("row_topk", no_kernel, "RuntimeError: out of resource"),
    ],
)
def test_a_run_whose_kernels_are_wrong_goes_on_with_torch_and_says_so(
    device, tmp_path, monkeypatch, caplog, name, wrong, words
):
    monkeypatch.setattr(loop, "START_SAMPLE", BATCH)
    plain = train(config(), Batches(), tmp_path / "torch", device=device)
    monkeypatch.setattr(gpu_step, name, wrong)
    with caplog.at_level(logging.WARNING):
        ours = train(config(kernels="triton"), Batches(), tmp_path / "triton", device=device)
    (record,) = [record for record in caplog.records if record.name == "sae_core.training.loop"]
    assert "do not train topk as torch does" in record.getMessage()
    assert words in record.getMessage()
    close(ours.W_dec, plain.W_dec, 0 if device.type == "cpu" else 1e-3)
    assert torch.isfinite(ours.W_dec).all()
