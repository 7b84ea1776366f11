"""Edits folded into weights give the logits that their hooks give."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sae_core.errors import InterventionError, ModelError
from sae_core.interventions import Edit, Intervention, Site, intervene
from sae_core.interventions.folding import export_model, fold
from sae_core.models import HookPoint, LanguageModel, load_model
from tests.core.interventions.conftest import HOOK, TEXT, random_sae

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
VECTOR = torch.linspace(-1, 2, 32)
ADD = Intervention("add", 1.5, direction=VECTOR, special_tokens=True)
OUT = Intervention("ablate", direction=VECTOR, special_tokens=True)


def site(point: str, layer: int, *changes: Intervention) -> Site:
    return Site(HookPoint(point, layer), changes)


def check(model: LanguageModel, sites: list[Site]) -> None:
    ids = torch.tensor([model.tokenize(TEXT)])
    with intervene(model, sites):
        expected = model.logits(ids)
    with torch.no_grad():
        folded = fold(model, Edit.of("Test", model, sites))(ids).logits
    torch.testing.assert_close(folded, expected, **CLOSE)
    assert (folded - model.logits(ids)).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen3"])
@pytest.mark.parametrize("layers", [(1,), (0, 1, 3)])
def test_a_direction_is_added_to_the_residual_stream(
    load_family: Callable[[str], LanguageModel], family: str, layers: tuple[int, ...]
) -> None:
    check(load_family(family), [site("resid_post", layer, ADD) for layer in layers])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen2", "qwen3", "mistral"])
def test_a_direction_is_projected_out_of_all_that_is_written(
    load_family: Callable[[str], LanguageModel], family: str
) -> None:
    writes = [site(point, layer, OUT) for layer in range(4) for point in ("attn_out", "mlp_out")]
    check(load_family(family), [site("resid_pre", 0, OUT), *writes])


def test_a_map_of_several_parts_and_a_shift_of_the_embeddings(any_model: LanguageModel) -> None:
    other = Intervention("scale", 3.0, direction=VECTOR.flip(0), special_tokens=True)
    check(any_model, [site("resid_pre", 0, ADD, OUT, other)])


def test_the_projections_take_the_whole_map(load_family: Callable[[str], LanguageModel]) -> None:
    for family in ("llama", "gpt2", "gpt_neox"):
        check(load_family(family), [site("attn_out", 1, ADD, OUT), site("mlp_out_post", 2, ADD, OUT)])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3"])
@pytest.mark.parametrize("point", ["attn_in", "z", "mlp_in", "mlp_act", "attn_out", "mlp_out"])
def test_what_projections_read_and_write_is_changed(
    load_family: Callable[[str], LanguageModel], family: str, point: str
) -> None:
    model = load_family(family)
    vector = torch.linspace(-1, 2, model.d_in(HookPoint(point, 1)))
    changes = [Intervention(op, 1.5, direction=vector, special_tokens=True) for op in ("add", "scale")]
    linear = [change for change in changes if change.op == "scale"]
    no_bias = family.startswith("gemma") and point.startswith("mlp")
    check(model, [site(point, 1, *(linear if no_bias else changes))])


def test_an_edit_of_another_model_is_not_folded(load_family: Callable[[str], LanguageModel]) -> None:
    edit = Edit.of("Test", load_family("llama"), [site("resid_post", 1, ADD)])
    with pytest.raises(InterventionError, match="other weights than"):
        fold(load_family("qwen3"), edit)


def test_an_added_feature_is_its_direction(model: LanguageModel) -> None:
    check(model, [Site(HOOK, [Intervention("add", 4.0, feature=7, special_tokens=True)], random_sae())])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_an_exported_model_is_a_model_like_any_other(
    load_family: Callable[[str], LanguageModel], family: str, tmp_path: Path
) -> None:
    model, sites = load_family(family), [site("resid_post", 1, ADD), site("resid_pre", 0, OUT)]
    ids = torch.tensor([model.tokenize(TEXT)])
    with intervene(model, sites):
        expected = model.logits(ids)
    before = model.logits(ids)
    edit = Edit.of("Test", model, sites)
    export_model(model, edit, tmp_path / "model")
    exported = load_model(tmp_path / "model", device="cpu")
    torch.testing.assert_close(exported.logits(ids), expected, **CLOSE)
    assert exported.tokenize(TEXT) == ids[0].tolist()
    assert torch.equal(model.logits(ids), before)
    with pytest.raises(InterventionError, match="there already"):
        export_model(model, edit, tmp_path / "model")


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([site("resid_post", 1, Intervention("add", 1.0, direction=VECTOR))], "spares BOS"),
        ([site("resid_post", 1, Intervention("add", 1.0, direction=VECTOR, positions="prompt"))], "every token"),
        ([site("resid_post", 1, OUT)], "no weight holds it"),
        ([site("resid_mid", 1, ADD)], "No weight"),
        ([site("resid_mid", 1, OUT)], "no weight holds it"),
        ([Site(HOOK, [Intervention("clamp", 1.0, feature=1, special_tokens=True)], random_sae())], "no linear map"),
    ],
)
def test_what_is_no_weight_says_why(model: LanguageModel, sites: list[Site], message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        fold(model, Edit.of("Test", model, sites))


def test_a_model_without_biases_and_a_layer_that_is_not_there(load_family: Callable[[str], LanguageModel]) -> None:
    qwen = load_family("qwen2")
    with pytest.raises(InterventionError, match="cannot have a bias"):
        fold(qwen, Edit.of("Test", qwen, [site("resid_post", 1, ADD)]))
    with pytest.raises(ModelError, match="no layer 9"):
        fold(qwen, Edit.of("Test", qwen, [site("resid_post", 9, ADD)]))
