"""Encode and decode where only active features get gradients.

A step of dense autograd costs about 12·d_in·d_sae operations per token. Here it is the encoder's forward product,
2·d_in·d_sae, plus some 10·d_in for each active feature. The `*_reference` functions compute the same in plain autograd;
tests compare the two.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import embedding_bag

from sae_core.kernels import gpu
from sae_core.kernels.selection import Selection


def active_values(
    pre: Float[Tensor, "batch d_sae"],
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    centre: Float[Tensor, " d_in"] | None,
    selection: Selection,
) -> Float[Tensor, " active"]:
    """Return the selected pre-activations, with gradients for `W_enc`, `b_enc` and `centre` (not for `x`).

    `pre` is (x − centre) W_enc + b_enc, already computed without gradient because the selection needed it; without a
    centre (a transcoder) it is x W_enc + b_enc.
    """
    return _apply(_ActiveValues, selection.values(pre), x, W_enc, b_enc, centre, selection)


def active_values_reference(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    centre: Float[Tensor, " d_in"] | None,
    selection: Selection,
) -> Float[Tensor, " active"]:
    """Compute `active_values` by dense autograd."""
    return selection.values((x if centre is None else x - centre) @ W_enc + b_enc)


def decode(
    values: Float[Tensor, " active"], W_dec: Float[Tensor, "d_sae d_in"], selection: Selection
) -> Float[Tensor, "batch d_in"]:
    """Return Σ values · W_dec[feature] for each row, with gradients for `values` and `W_dec`."""
    return _apply(_Decode, values, W_dec, selection)


def decode_reference(
    values: Float[Tensor, " active"], W_dec: Float[Tensor, "d_sae d_in"], selection: Selection
) -> Float[Tensor, "batch d_in"]:
    """Compute `decode` by a dense product."""
    return selection.dense(values) @ W_dec


def _sum_by_feature(
    values: Float[Tensor, " active"], rows: Float[Tensor, "batch d_in"], selection: Selection
) -> Float[Tensor, "d_sae d_in"]:
    """Return Σ values · rows[row] for each feature: the gradient of a dictionary, by a gather instead of a scatter."""
    if gpu.runs_on(values, rows):
        from sae_core.kernels.gpu.sparse import sum_by_feature

        return sum_by_feature(selection.grouped, values, selection.rows, rows.contiguous())[0]
    order = selection.by_feature
    return embedding_bag(
        selection.rows[order], rows, selection.feature_offsets, mode="sum", per_sample_weights=values[order]
    )


def _apply(function: type[torch.autograd.Function], *arguments: Tensor | Selection | None) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _ActiveValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        centre: Tensor | None,
        selection: Selection,
    ) -> Tensor:
        ctx.save_for_backward(x if centre is None else x - centre, W_enc)
        ctx.selection, ctx.is_centred = selection, centre is not None
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc = ctx.saved_tensors
        selection: Selection = ctx.selection
        grad_b_enc = gradient.new_zeros(selection.d_sae).index_add(0, selection.features, gradient)
        grad_W_enc = _sum_by_feature(gradient, x, selection).t()
        grad_centre = -(W_enc @ grad_b_enc) if ctx.is_centred else None
        return None, None, grad_W_enc, grad_b_enc, grad_centre, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, W_dec: Tensor, selection: Selection) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.selection = selection  # type: ignore[attr-defined]
        if gpu.runs_on(values, W_dec):
            from sae_core.kernels.gpu.sparse import decode

            return decode(values, selection.features, *selection.row_borders, W_dec.contiguous())
        return embedding_bag(selection.features, W_dec, selection.row_offsets, mode="sum", per_sample_weights=values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        selection: Selection = ctx.selection
        gradient = gradient.contiguous()
        if gpu.runs_on(gradient, W_dec):
            from sae_core.kernels.gpu.sparse import entry_products

            grad_values = entry_products(selection.features, *selection.row_borders, W_dec.contiguous(), gradient)
            return grad_values, _sum_by_feature(values, gradient, selection), None
        # ⟨gradient[row], W_dec[feature]⟩ for each entry: what autograd calls for embedding_bag's weights, and several
        # times faster than gathering both sides.
        grad_values = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            gradient, W_dec, selection.features, selection.row_offsets, selection.rows, 0
        )
        return grad_values, _sum_by_feature(values, gradient, selection), None
