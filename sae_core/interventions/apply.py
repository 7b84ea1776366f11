"""Interventions inside a forward pass: hooks that are there while a context is open, and gone after it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from interp_engine.hooks import HookManager
from torch import Tensor, nn

from sae_core.errors import InterventionError
from sae_core.interventions.ops import Site
from sae_core.interventions.served import changes_of
from sae_core.interventions.tokens import PassTokens, tokens_of_pass
from sae_core.models import HookPoint, LanguageModel, ServedModel
from sae_core.models.points import write_at

Resolve = Callable[[HookPoint], tuple[nn.Module, str]]


@contextmanager
def intervene(model: LanguageModel, sites: Sequence[Site], *, prompt_length: int | None = None) -> Iterator[None]:
    """Change every forward pass of the model in the body; the hooks are removed whatever happens there.

    A later site reads activations that an earlier one has changed.

    Args:
        sites: what is done, by hook point.
        prompt_length: tokens of each text that are its prompt; without it, those of a pass with an empty cache.

    Raises:
        ModelError: the model has no such hook point.
        InterventionError: a direction has another width than the model.
        BackendError: the model's back end cannot do it.
    """
    if isinstance(model, ServedModel):
        with model.changed(changes_of(model, sites, prompt_length)):
            yield
        return
    special = model.special_token_ids | ({model.bos_token_id} if model.bos_token_id is not None else set())
    with hooks_on(model.hf_model, model.resolve, sites, special, prompt_length):
        yield


@contextmanager
def hooks_on(
    hf_model: nn.Module, resolve: Resolve, sites: Sequence[Site], special: frozenset[int], prompt_length: int | None
) -> Iterator[None]:
    """Do what `intervene` does on a plain `transformers` model.

    Args:
        resolve: the module at a hook point, and its side.
        special: ids of BOS and the other special tokens.
    """
    reading: list[PassTokens] = []

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        call = {**({"input_ids": args[0]} if args else {}), **kwargs}
        if call.get("input_ids") is None:
            raise InterventionError("Interventions need token ids: call the model with input_ids, not inputs_embeds.")
        reading[:] = [tokens_of_pass(call, special, prompt_length)]

    with HookManager() as manager:
        beginning = hf_model.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            for site in sites:
                _install(manager, resolve, site, reading)
            yield
        finally:
            beginning.remove()


def _install(manager: HookManager, resolve: Resolve, site: Site, reading: list[PassTokens]) -> None:
    captured: list[Tensor] = []

    def write(activations: Tensor) -> Tensor:
        tokens = reading[0]
        source = captured.pop() if captured else activations
        acts = [change.acts_on(tokens).flatten() for change in site.interventions]
        rows = torch.stack(acts).any(dim=0).nonzero().squeeze(1)
        if not len(rows):
            return activations
        written = activations.reshape(-1, activations.shape[-1])
        own = written[rows].float()
        read = own if source is activations else source.reshape(-1, source.shape[-1])[rows].float()
        _check_width(site, own)
        change = site.change(read, own, [mask[rows] for mask in acts])
        return written.index_copy(0, rows, (own + change).to(written.dtype)).reshape(activations.shape)

    if site.write is not None and site.write != site.hook:
        module, side = resolve(site.hook)
        manager.read(module, lambda activations: captured.append(activations.clone()), point=side)
    point = site.write or site.hook
    write_at(manager, resolve(point), point, write)


def _check_width(site: Site, activations: Tensor) -> None:
    for change in site.interventions:
        if change.direction is not None and len(change.direction) != activations.shape[-1]:
            raise InterventionError(
                f"The direction has {len(change.direction)} dimensions, and the model {activations.shape[-1]} there."
            )
