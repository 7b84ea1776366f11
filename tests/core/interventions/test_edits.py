"""Edits: files that hold all that it takes, applied to plain `transformers` models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sae_core import apply_edits
from sae_core.errors import InterventionError, ModelError, SAEError
from sae_core.interventions import Edit, Intervention, Sampling, Site, Step, generate, intervene, load_edit, save_edit
from sae_core.models import HookPoint, LanguageModel
from tests.core.interventions.conftest import HOOK, TEXT, random_sae, strongest

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
LATER = HookPoint("resid_post", 2)


def sites_of(model: LanguageModel, kind: str = "jumprelu", **options: Any) -> list[Site]:
    """Every op, at two hook points."""
    sae = random_sae(kind, **options)
    feature = strongest(model, sae)
    changes = [
        Intervention("clamp", 3.0, feature=feature, positions=(2, 9)),
        Intervention("scale", -1.0, feature=(feature + 1) % 48, positions=frozenset({3, 5})),
        Intervention("add", 2.0, feature=(feature + 2) % 48, positions="generated"),
        Intervention("ablate", feature=(feature + 3) % 48, positions="prompt", special_tokens=True),
    ]
    along = Intervention("scale", 0.5, direction=torch.linspace(-1, 2, 32))
    return [Site(HOOK, changes, sae), Site(LATER, [along])]


def saved(tmp_path: Path, model: LanguageModel, sites: list[Site]) -> Path:
    save_edit(Edit.of("Test", model, sites), tmp_path / "edit.json")
    return tmp_path / "edit.json"


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_a_file_changes_a_plain_model_as_the_interventions_do(
    any_model: LanguageModel, kind: str, tmp_path: Path
) -> None:
    sites = sites_of(any_model, kind, normalize_activations="layer_norm")
    ids = torch.tensor([any_model.tokenize(TEXT)])
    with intervene(any_model, sites):
        expected = any_model.logits(ids)
    plain = AutoModelForCausalLM.from_pretrained(any_model.source)
    with torch.no_grad():
        before = plain(ids).logits
        with apply_edits(plain, saved(tmp_path, any_model, sites)):
            torch.testing.assert_close(plain(ids).logits, expected, **CLOSE)
        assert torch.equal(plain(ids).logits, before)
    assert (expected - before).abs().max() > 0.01


def test_transformers_generates_with_an_edit(model: LanguageModel, tmp_path: Path) -> None:
    sites, prompt = sites_of(model), model.tokenize(TEXT)
    steps = generate(model, prompt, sites, Sampling(max_new_tokens=12))
    ours = [step.token_id for step in steps if isinstance(step, Step)]
    plain = AutoModelForCausalLM.from_pretrained(model.source)
    with apply_edits(plain, saved(tmp_path, model, sites)):
        theirs = plain.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
    assert theirs.tolist() == ours


def test_a_transcoder_and_two_edits_at_once(model: LanguageModel, tmp_path: Path) -> None:
    transcoder = random_sae(d_out=32, skip=True)
    read, write = HookPoint("mlp_in", 1), HookPoint("mlp_out", 1)
    first = Site(read, [Intervention("scale", 4.0, feature=strongest(model, transcoder, read))], transcoder, write)
    second = sites_of(model)[1]
    ids = torch.tensor([model.tokenize(TEXT)])
    with intervene(model, [first, second]):
        expected = model.logits(ids)
    with apply_edits(model.hf_model, saved(tmp_path, model, [first]), Edit.of("Second", model, [second])):
        torch.testing.assert_close(model.logits(ids), expected, **CLOSE)


def test_a_file_holds_only_the_rows_of_its_features(model: LanguageModel, tmp_path: Path) -> None:
    content = json.loads(saved(tmp_path, model, sites_of(model)).read_text())
    sae = content["sites"][0]["sae"]
    assert len(sae["row_of"]) == sae["config"]["d_sae"] == 3  # what is added needs no encoding
    loaded = load_edit(tmp_path / "edit.json")
    assert (loaded.name, loaded.model_name) == ("Test", model.name)
    assert loaded.special_token_ids == {0, 1, 2}


def test_the_model_stays_as_it_was(model: LanguageModel, tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(model.source).train()
    ids, path = torch.tensor([model.tokenize(TEXT)]), saved(tmp_path, model, sites_of(model))
    before = plain(ids).logits
    with pytest.raises(ZeroDivisionError), apply_edits(plain, path):
        raise ZeroDivisionError
    assert torch.equal(plain(ids).logits, before)
    assert plain.training
    assert all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "no JSON"),
        ("[]", "no edit of the format"),
        ('{"format": "seesae-edit-1"}', "damaged edit: KeyError"),
    ],
)
def test_what_is_no_edit_is_refused(model: LanguageModel, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "edit.json"
    with pytest.raises(InterventionError, match="cannot be read"), apply_edits(model.hf_model, path):
        pass
    path.write_text(content)
    with pytest.raises(InterventionError, match=message), apply_edits(model.hf_model, path):
        pass


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sites", 0, "sae", "architecture"), "none"),
        (("sites", 0, "sae", "tensors", "b_enc"), {"shape": [1], "float32": "AAAAAA=="}),
        (("sites", 0, "sae", "tensors", "b_enc", "float32"), "%"),
        (("sites", 0, "interventions", 0, "value"), 1e30),
        (("sites", 0, "interventions", 0, "feature"), 7000),
        (("sites", 0, "hook"), "somewhere.1"),
        (("sites",), None),
    ],
)
def test_a_damaged_edit_is_refused(model: LanguageModel, tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    file = saved(tmp_path, model, sites_of(model))
    content = json.loads(file.read_text())
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(InterventionError, match="damaged edit"):
        load_edit(file)


def test_another_model_of_the_same_shape_is_refused(load_family: Callable[[str], LanguageModel]) -> None:
    edit = Edit.of("Test", load_family("llama"), [Site(HOOK, [Intervention("ablate", direction=torch.ones(32))])])
    with (
        pytest.raises(InterventionError, match="other weights than mistral has"),
        apply_edits(load_family("mistral"), edit),
    ):
        pass


def test_a_control_along_another_vector_is_kept(model: LanguageModel, tmp_path: Path) -> None:
    sae, vector = random_sae(), torch.linspace(-1, 2, 32)
    feature = strongest(model, sae)
    changes = [
        Intervention("scale", 3.0, feature=feature, along=vector),
        Intervention("add", 2.0, feature=(feature + 1) % 48, along=vector),
    ]
    sites, ids = [Site(HOOK, changes, sae)], torch.tensor([model.tokenize(TEXT)])
    with intervene(model, sites):
        expected = model.logits(ids)
    with apply_edits(model.hf_model, saved(tmp_path, model, sites)):
        torch.testing.assert_close(model.logits(ids), expected, **CLOSE)


def test_an_edit_of_another_model_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    ids = torch.tensor([model.tokenize(TEXT)])
    narrow = random_sae(d_in=16)
    path = saved(tmp_path, model, [Site(HOOK, [Intervention("ablate", feature=0)], narrow)])
    with pytest.raises(SAEError, match="16 dimensions"), apply_edits(model.hf_model, path):
        model.logits(ids)
    far = saved(tmp_path, model, [Site(HookPoint("resid_post", 20), [Intervention("add", 1.0, feature=0)], narrow)])
    with pytest.raises(ModelError, match="no layer 20"), apply_edits(model.hf_model, far):
        pass
