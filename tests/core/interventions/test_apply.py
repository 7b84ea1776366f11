"""Interventions in a forward pass, held to hand-written hooks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_core.errors import InterventionError, ModelError
from sae_core.interventions import Intervention, Site, intervene
from sae_core.models import HookPoint, LanguageModel
from tests.core.interventions.conftest import HOOK, TEXT, random_sae, strongest

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


ADDED = Intervention("add", 3.0, direction=torch.ones(32))


def ids_of(model: LanguageModel, text: str = TEXT) -> Tensor:
    return torch.tensor([model.tokenize(text)])


def by_hand(model: LanguageModel, ids: Tensor, change: Callable[[Tensor], Tensor], hook: HookPoint = HOOK) -> Tensor:
    """Logits with `change(x)` in the place of x, but on BOS."""

    def replace(x: Tensor, _read: Tensor) -> Tensor:
        changed = change(x)
        changed[:, 0] = x[:, 0]
        return changed

    return model.logits(ids, hook, replace)


def changed_logits(model: LanguageModel, ids: Tensor, *sites: Site) -> Tensor:
    with intervene(model, sites):
        return model.logits(ids)


def test_what_changes_nothing_leaves_the_bare_model(any_model: LanguageModel) -> None:
    ids, sae = ids_of(any_model), random_sae()
    feature = strongest(any_model, sae)
    bare = any_model.logits(ids)
    for change in (Intervention("scale", 1.0, feature=feature), Intervention("add", 0.0, feature=feature)):
        torch.testing.assert_close(changed_logits(any_model, ids, Site(HOOK, [change], sae)), bare, **CLOSE)


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_ablation_equals_a_hook_by_hand(any_model: LanguageModel, kind: str) -> None:
    ids, sae = ids_of(any_model), random_sae(kind)
    feature = strongest(any_model, sae)

    def without(x: Tensor) -> Tensor:
        f = sae.encode(x)
        error = x - sae.decode(f)
        f = f.clone()
        f[..., feature] = 0
        return sae.decode(f) + error

    ours = changed_logits(any_model, ids, Site(HOOK, [Intervention("ablate", feature=feature)], sae))
    torch.testing.assert_close(ours, by_hand(any_model, ids, without), **CLOSE)
    assert (ours - any_model.logits(ids)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("op", "value", "new"),
    [
        ("clamp", 3.0, lambda f: torch.full_like(f, 3.0)),
        ("scale", -2.0, lambda f: -2 * f),
        ("add", 1.5, lambda f: f + 1.5),
    ],
)
def test_each_op_changes_the_activation(
    model: LanguageModel, op: Any, value: float, new: Callable[[Tensor], Tensor]
) -> None:
    ids, sae = ids_of(model), random_sae()
    feature = strongest(model, sae)

    def changed(x: Tensor) -> Tensor:
        f = sae.encode(x)[..., feature]
        return x + (new(f) - f)[..., None] * sae.W_dec[feature]

    ours = changed_logits(model, ids, Site(HOOK, [Intervention(op, value, feature=feature)], sae))
    torch.testing.assert_close(ours, by_hand(model, ids, changed), **CLOSE)


def test_directions_are_added_and_scaled_along_their_unit_vector(model: LanguageModel) -> None:
    ids, v = ids_of(model), torch.linspace(-3, 5, 32)
    unit = v / v.norm()
    for change, by in [
        (Intervention("add", 0.5, direction=v), lambda x: x + 0.5 * v),
        (Intervention("scale", 3.0, direction=v), lambda x: x + 2 * (x @ unit)[..., None] * unit),
        (Intervention("ablate", direction=v), lambda x: x - (x @ unit)[..., None] * unit),
    ]:
        torch.testing.assert_close(changed_logits(model, ids, Site(HOOK, [change])), by_hand(model, ids, by), **CLOSE)


def test_between_attention_and_mlp_both_the_mlp_and_the_residual_stream_change(any_model: LanguageModel) -> None:
    if any_model.hf_model.config.model_type == "gpt_neox":
        with pytest.raises(ModelError, match="resid_mid"):  # its attention and MLP read the same input
            changed_logits(any_model, ids_of(any_model), Site(HookPoint("resid_mid", 1), [ADDED]))
        return
    ids = ids_of(any_model)
    between = changed_logits(any_model, ids, Site(HookPoint("resid_mid", 1), [ADDED]))
    as_attention_adds_it = changed_logits(any_model, ids, Site(HookPoint("attn_out_post", 1), [ADDED]))
    torch.testing.assert_close(between, as_attention_adds_it, **CLOSE)
    torch.testing.assert_close(
        any_model.logits(ids, HookPoint("resid_mid", 1), lambda x, _: torch.cat([x[:, :1], x[:, 1:] + 3], dim=1)),
        between,
        **CLOSE,
    )


def test_a_control_changes_along_another_vector(model: LanguageModel) -> None:
    ids, sae, v = ids_of(model), random_sae(), torch.linspace(-1, 1, 32)
    feature = strongest(model, sae)
    ours = changed_logits(model, ids, Site(HOOK, [Intervention("ablate", feature=feature, along=v)], sae))
    expected = by_hand(model, ids, lambda x: x - sae.encode(x)[..., feature, None] * v)
    torch.testing.assert_close(ours, expected, **CLOSE)


def test_an_sae_that_normalises_tokens_changes_x_in_the_models_units(model: LanguageModel) -> None:
    ids, sae = ids_of(model), random_sae(normalize_activations="layer_norm")
    feature = strongest(model, sae)

    def without(x: Tensor) -> Tensor:
        f = sae.encode(x)
        ablated = f.clone()
        ablated[..., feature] = 0
        return x + sae.decode(ablated, x) - sae.decode(f, x)

    ours = changed_logits(model, ids, Site(HOOK, [Intervention("ablate", feature=feature)], sae))
    torch.testing.assert_close(ours, by_hand(model, ids, without), **CLOSE)


def test_a_transcoder_reads_one_point_and_writes_another(any_model: LanguageModel) -> None:
    ids, sae = ids_of(any_model), random_sae(d_out=32)
    read, write = HookPoint("mlp_in", 1), HookPoint("mlp_out", 1)
    feature = strongest(any_model, sae, read)

    def replace(y: Tensor, x: Tensor) -> Tensor:
        changed = y - sae.encode(x)[..., feature, None] * sae.W_dec[feature]
        changed[:, 0] = y[:, 0]
        return changed

    ours = changed_logits(any_model, ids, Site(read, [Intervention("ablate", feature=feature)], sae, write))
    torch.testing.assert_close(ours, any_model.logits(ids, write, replace, read=read), **CLOSE)
    assert (ours - any_model.logits(ids)).abs().max() > 1e-3


def test_a_later_sae_reads_what_an_earlier_one_changed(model: LanguageModel) -> None:
    ids, early, late = ids_of(model), random_sae(), random_sae(seed=1)
    last = HookPoint("resid_post", 2)
    first, second = strongest(model, early), strongest(model, late, last)
    sites = [
        Site(last, [Intervention("scale", 0.5, feature=second)], late),
        Site(HOOK, [Intervention("ablate", feature=first)], early),
    ]
    with intervene(model, sites[1:]):
        x = model.activations(ids, last)

    def halved(_x: Tensor) -> Tensor:
        return x - 0.5 * late.encode(x)[..., second, None] * late.W_dec[second]

    expected = by_hand(model, ids, lambda _: halved(x), last)
    assert (x[:, 0] == model.activations(ids, last)[:, 0]).all()
    torch.testing.assert_close(changed_logits(model, ids, *sites), expected, **CLOSE)


def test_left_padding_changes_nothing(any_model: LanguageModel) -> None:
    sae = random_sae()
    feature = strongest(any_model, sae)
    texts = [any_model.tokenize(TEXT), any_model.tokenize(TEXT[:25])]
    longest = max(map(len, texts))
    ids = torch.tensor([[2] * (longest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    places = (mask.cumsum(1) - 1).clamp_min(0)
    site = Site(HOOK, [Intervention("clamp", 4.0, feature=feature, positions=(2, 5))], sae)
    with intervene(any_model, [site]), torch.no_grad():
        batched = any_model.hf_model(input_ids=ids, attention_mask=mask, position_ids=places).logits
    for row, text in enumerate(texts):
        alone = changed_logits(any_model, torch.tensor([text]), site)[0]
        torch.testing.assert_close(batched[row, -len(text) :], alone, **CLOSE)


def test_bos_is_changed_only_if_asked(model: LanguageModel) -> None:
    ids, sae = ids_of(model), random_sae()
    bare = model.activations(ids, HOOK)
    for asked in (False, True):
        change = Intervention("add", 2.0, feature=0, special_tokens=asked)
        with intervene(model, [Site(HOOK, [change], sae)]):
            moved = (model.activations(ids, HOOK) - bare).abs().amax(dim=-1)[0] > 1e-3
        assert moved.tolist() == [asked, *[True] * (ids.shape[1] - 1)]


def test_hooks_are_gone_whatever_happens(model: LanguageModel) -> None:
    ids, sae = ids_of(model), random_sae()
    site = Site(HOOK, [Intervention("clamp", 9.0, feature=0)], sae)
    before = model.logits(ids)
    with pytest.raises(ZeroDivisionError), intervene(model, [site]):
        raise ZeroDivisionError
    with (
        pytest.raises(ModelError),
        intervene(model, [site, Site(HookPoint("resid_post", 9), [site.interventions[0]], sae)]),
    ):
        pass
    with (
        pytest.raises(InterventionError, match="31 dimensions"),
        intervene(model, [Site(HOOK, [Intervention("add", 1.0, direction=torch.ones(31))])]),
    ):
        model.logits(ids)
    with pytest.raises(InterventionError, match="input_ids"), intervene(model, [site]):
        model.hf_model(inputs_embeds=torch.zeros(1, 2, 32))
    changed = changed_logits(model, ids, site)
    assert not torch.equal(changed, before)
    assert torch.equal(model.logits(ids), before)
    assert torch.equal(changed_logits(model, ids, site), changed)
