"""The module at a hook point, in a `LanguageModel` or in a plain `transformers` model."""

from collections.abc import Callable
from typing import Any

from interp_engine.hooks import HookManager
from interp_engine.model import EagerModel
from torch import Tensor, nn

from sae_core.errors import ModelError
from sae_core.models.hooks import HookPoint


def module_at(eager: EagerModel, hook: HookPoint, name: str) -> tuple[nn.Module, str]:
    """Return the module that `hook` is at, and its side: input or output; `name` is the model's, for messages.

    Raises:
        ModelError: the model has no such hook point.
    """
    if not 0 <= hook.layer < eager.n_layers:
        raise ModelError(f"{name} has no layer {hook.layer}: its layers are 0 to {eager.n_layers - 1}.")
    attention_scale, mlp_scale = eager.arch.quirks.residual_multipliers
    if {"attn_out_post": attention_scale, "mlp_out_post": mlp_scale}.get(hook.name, 1.0) != 1.0:
        raise ModelError(f"{name} scales {hook} on its way to the residual stream. Use resid_post instead.")
    try:
        module, side = eager.resolve_point(hook.name, hook.layer)
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{name} has no {hook}: {error}") from error
    return module, side


def write_at(
    hooks: HookManager, place: tuple[nn.Module, str], hook: HookPoint, write: Callable[[Tensor], Tensor]
) -> None:
    """Let passes continue with `write(activations)` instead of the activations at `hook`, which is at `place`.

    Between attention and MLP the residual stream is the input of a norm, and what the block adds the MLP's output to
    afterwards is the same tensor. So it is written in place there: both see the change.
    """

    def in_place(activations: Tensor) -> Tensor:
        return activations.copy_(write(activations.clone()))

    module, side = place
    hooks.write(module, in_place if hook.name == "resid_mid" else write, point=side)


def find_modules(hf_model: Any) -> EagerModel:
    """Return interp-engine's view of a plain `transformers` model, which stays as it is.

    Raises:
        ModelError: interp-engine cannot find its way in it.
    """
    trains, wanted = hf_model.training, [parameter.requires_grad for parameter in hf_model.parameters()]
    try:
        return EagerModel("", hf_model=hf_model, tokenizer=object())  # no point of a module needs a tokenizer
    except (ValueError, AttributeError) as error:
        raise ModelError(f"interp-engine cannot find its way in {type(hf_model).__name__}: {error}") from error
    finally:  # interp-engine prepares a model for inference, and here it may be in training
        hf_model.train(trains)
        for parameter, requires_grad in zip(hf_model.parameters(), wanted, strict=True):
            parameter.requires_grad_(requires_grad)
