"""Output tokens: a token's effect is compared with what the SAE's other features do to it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sae_core.models import OutputDirections
from sae_core.progress import silent
from sae_core.statistics import decoders
from sae_core.statistics.decoders import OutputTokens, output_tokens


def found(W_dec: Tensor, by_token: Tensor, token_ids: Tensor | None = None) -> OutputTokens:
    ids = torch.arange(by_token.shape[1]) if token_ids is None else token_ids
    return output_tokens(W_dec, OutputDirections(by_token, ids), silent)


def first(ids: np.ndarray) -> list[list[int]]:
    return [[int(token) for token in row if token >= 0] for row in ids]


def test_a_case_by_hand() -> None:
    """Effects of four features on three tokens:

    token 10: 4, 0, 0, 0; mean 1, deviation √3: 1.73, -0.58, -0.58, -0.58
    token 20: 9, 9, 7, 7; mean 8, deviation 1: 1, 1, -1, -1
    token 30: 0, 6, 0, 2; mean 2, deviation √6: -0.82, 1.63, -0.82, 0
    """
    effects = torch.tensor([[4.0, 9, 0], [0, 9, 6], [0, 7, 0], [0, 7, 2]])
    result = found(effects, torch.eye(3), torch.tensor([10, 20, 30]))
    assert first(result.promoted_ids) == [[10, 20, 30], [30, 20, 10], [10, 30, 20], [30, 10, 20]]
    assert first(result.suppressed_ids) == [row[::-1] for row in first(result.promoted_ids)]
    np.testing.assert_allclose(result.promoted_logits[0, :3], [3, 1, -2], rtol=1e-6)
    np.testing.assert_allclose(result.suppressed_logits[1, :3], [-1, 1, 4], rtol=1e-6)
    assert (result.promoted_logits[:, 3:] == 0).all()


def test_a_token_that_all_features_promote_no_longer_leads() -> None:
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(200, 40, generator=generator)
    effects[:, 7] = 8 + 2 * effects[:, 7]  # the largest effect of every feature, or nearly
    assert (effects.argmax(dim=1) == 7).float().mean() > 0.95
    leading = found(effects, torch.eye(40)).promoted_ids[:, 0]
    assert (leading == 7).mean() < 0.1


def test_a_token_that_all_features_move_alike_is_in_no_list() -> None:
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(30, 20, generator=generator)
    W_dec[:, 0] = 1 / 3
    by_token = torch.randn(20, 10, generator=generator)
    by_token[1:, 4] = 0
    result = found(W_dec, by_token)
    assert (
        sorted(first(result.promoted_ids)[0]) == sorted(first(result.suppressed_ids)[0]) == [0, 1, 2, 3, *range(5, 10)]
    )


@pytest.mark.parametrize("W_dec", [torch.ones(1, 4), torch.ones(3, 4)])
def test_features_that_do_not_differ_have_no_output_tokens(W_dec: Tensor) -> None:
    result = found(W_dec, torch.eye(4))
    assert (result.promoted_ids == -1).all()
    assert (result.suppressed_logits == 0).all()


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_is_of_all_features_times_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "ROWS", 16)
    monkeypatch.setattr(decoders, "TOKENS", 32)
    generator = torch.Generator().manual_seed(0)
    W_dec, by_token = torch.randn(640, 24, generator=generator), torch.randn(24, 900, generator=generator)
    with LargestTensor() as largest:
        blocks = found(W_dec, by_token)
    assert largest.elements <= 24 * 900
    monkeypatch.undo()
    np.testing.assert_array_equal(blocks.promoted_ids, found(W_dec, by_token).promoted_ids)
