import dataclasses

import pytest
import torch

from sae_core.errors import SAEError
from sae_core.training import TrainingConfig, train
from tests.core.training.synthetic import Synthetic, small


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "unheard"}, "no architecture 'unheard'. Choose standard, gated, jumprelu, topk, batchtopk"),
        ({"precision": "int8"}, "Choose float32, tf32, bf16"),
        ({"options": {"l1_coefficient": 1.0}}, "batchtopk has no option 'l1_coefficient'. It has aux_coefficient"),
        ({"options": {"d_in": 3}}, "no option 'd_in'"),
        ({"options": {"aux_coefficient": "much"}}, "aux_coefficient is 'much'. Give a number, such as 0.03125"),
        ({"architecture": "matryoshka", "options": {"prefixes": 0.5}}, "prefixes is 0.5. Give a list of numbers"),
        ({"architecture": "matryoshka", "options": {"prefixes": [0.5]}}, "Give ascending shares"),
        ({"compile": True}, "pays for standard, gated only, not for batchtopk"),
        ({"kernels": "cuda"}, "Choose torch, triton"),
        (
            {"kernels": "triton", "architecture": "gated"},
            "for jumprelu, topk, batchtopk, matryoshka only",
        ),
        ({"architecture": "standard", "accumulate": 3}, "batch_size is 128, which 3 parts cannot share evenly"),
        ({"skip": True}, "A skip connection is for transcoders"),
        ({"k": 65}, "more than the 64 features"),
        ({"k": 0}, "k is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
    ],
)
def test_an_invalid_config_is_refused(tmp_path, options, message):
    with pytest.raises(SAEError, match=message):
        train(small(**options), Synthetic(), tmp_path, device="cpu")


def test_triton_kernels_are_refused_where_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SAEError, match="need an NVIDIA GPU and Triton"):
        small(architecture="topk", kernels="triton").resolved()
    monkeypatch.setattr(TrainingConfig, "_check_kernels", lambda config: None)  # a machine with a GPU that is not used
    with pytest.raises(SAEError, match="training runs on cpu"):
        train(small(architecture="topk", kernels="triton"), Synthetic(), tmp_path, device="cpu")


def test_identity_leaves_out_fields_that_were_added_later_at_their_default():
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert fields - small().identity().keys() == {"kernels"}
    assert small(kernels="triton").identity()["kernels"] == "triton"


def test_learning_rate_rises_and_falls_linearly():
    config = TrainingConfig(samples=1000, batch_size=10, lr=1.0, warmup=0.1, decay=0.2).resolved()
    rates = [config.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == [1.0] * 72
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)


def test_short_runs_take_larger_steps():
    assert TrainingConfig(d_sae=2**14, samples=10**9, batch_size=2048).resolved().lr == pytest.approx(2e-4)
    assert TrainingConfig(d_sae=2**12, samples=10**9, batch_size=2048).resolved().lr == pytest.approx(4e-4)
    assert TrainingConfig(d_sae=2**12, samples=10_000, batch_size=2).resolved().lr == pytest.approx(8e-4)
    assert TrainingConfig(d_sae=2**12, samples=1).resolved().lr == pytest.approx(32e-4)


@pytest.mark.parametrize("architecture", ["standard", "gated"])
def test_k_is_aimed_at_unless_the_price_of_activations_is_given(architecture):
    given = small(architecture=architecture, d_sae=2, options={"l1_coefficient": 1.0})
    assert given.resolved().d_sae == 2  # less than k, which does not matter
    assert not given.takes_k
    assert "controls_l0" not in given.identity()
    assert small(architecture=architecture).takes_k
    assert small(architecture=architecture).identity()["controls_l0"]  # a run from before λ was controlled is another
    with pytest.raises(SAEError, match="k is 3, more than the 2 features"):
        small(architecture=architecture, d_sae=2).resolved()


def test_architectures_that_have_a_k_have_no_controller():
    assert not any(small(architecture=name).controls_l0 for name in ("batchtopk", "topk", "matryoshka", "jumprelu"))
