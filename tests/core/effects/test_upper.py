"""The layers above a hook point give the logits of the whole pass."""

import pytest
import torch
from torch import Tensor

from sae_core.effects import UpperLayers
from sae_core.models import HookPoint, LanguageModel
from sae_core.models.language_model import Replace


def token_ids(length: int = 40) -> Tensor:
    """Two texts of random tokens: longer than the window of the models whose attention slides."""
    return torch.randint(3, 500, (2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("hook", ["resid_post.1", "resid_pre.2", "mlp_out_post.1"])
def test_upper_layers_equal_the_whole_pass(any_model: LanguageModel, hook: str) -> None:
    point = HookPoint.parse(hook)
    upper = UpperLayers(any_model, point)
    ids = token_ids()
    activations = any_model.activations(ids, point)
    torch.testing.assert_close(upper.logits(ids, activations), any_model.logits(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("hook", ["resid_post.1", "mlp_out_post.1"])
def test_a_changed_pass_that_continues_a_prefix_equals_the_whole_changed_pass(
    any_model: LanguageModel,
    hook: str,
) -> None:
    point = HookPoint.parse(hook)
    upper = UpperLayers(any_model, point)
    ids = token_ids()[:1]
    activations = any_model.activations(ids, point)
    delta = torch.zeros(3, 40, 32)
    delta[:, 27:33] = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(1))

    def added(own: Tensor) -> Replace:
        return lambda y, _: y + own

    whole = torch.cat([any_model.logits(ids, point, added(own)) for own in delta])

    prefix, _ = upper.begin(ids, activations)
    rows = torch.zeros(3, 14, dtype=torch.bool)
    rows[:, 3:] = True
    found = upper.logits(
        ids[:, 24:38].expand(3, -1), activations[:, 24:38] + delta[:, 24:38], prefix=prefix, start=24, rows=rows
    )
    torch.testing.assert_close(found, whole[:, 27:38].reshape(-1, whole.shape[-1]), atol=1e-4, rtol=0)


def test_blocks_below_a_residual_stream_do_not_run(any_model: LanguageModel) -> None:
    upper = UpperLayers(any_model, HookPoint("resid_post", 1))
    assert upper.skipped == 2
    assert not upper.why


def test_a_point_inside_a_block_says_why_all_blocks_run(any_model: LanguageModel) -> None:
    upper = UpperLayers(any_model, HookPoint("mlp_out_post", 1))
    assert upper.skipped == 0
    assert "mlp_out_post.1" in upper.why


def test_the_model_is_as_before(any_model: LanguageModel) -> None:
    ids = token_ids()
    before = any_model.logits(ids)
    upper = UpperLayers(any_model, HookPoint("resid_post", 1))
    with pytest.raises(RuntimeError):
        upper.logits(ids, torch.zeros(1, 1, 1))
    assert torch.equal(any_model.logits(ids), before)
