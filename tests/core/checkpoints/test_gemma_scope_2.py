import pytest
import torch

from sae_core.checkpoints import load
from tests.core.checkpoints.examples import assert_refused, copy_of, edit_json, edit_tensors

SAE_FOLDER = "resid_post/layer_3_width_16k_l0_small"
TRANSCODER_FOLDER = "transcoder/layer_3_width_16k_l0_small_affine"


@pytest.mark.parametrize(
    ("kind", "hooks"),
    [
        ("resid_post", ("blocks.7.hook_resid_post", None)),
        ("attn_out", ("blocks.7.attn.hook_z", None)),
        ("mlp_out", ("blocks.7.hook_mlp_out", None)),
        ("transcoder", ("blocks.7.mlp.hook_in", "blocks.7.hook_mlp_out")),
    ],
)
def test_without_a_config_the_folders_say_what_it_is(tmp_path, kind, hooks):
    source = copy_of("gemma_scope_2-jumprelu", tmp_path / "copy", leaf=SAE_FOLDER)
    (source / "config.json").unlink()
    folder = tmp_path / "gemma-scope-2-12b-it" / kind / "layer_7_width_16k"
    folder.parent.mkdir(parents=True)
    checkpoint = load(source.rename(folder))
    assert checkpoint.metadata["model_name"] == "google/gemma-3-12b-it"
    assert (checkpoint.metadata["hook_name"], checkpoint.metadata.get("hook_name_out")) == hooks
    assert checkpoint.sae.is_transcoder == (kind == "transcoder")


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ("gemma-v3-1b-pt", "google/gemma-3-1b-pt"),
        ("google/gemma-3-4b-it", "google/gemma-3-4b-it"),
        ("gemma-v3-270m-pt", "google/gemma-3-270m"),
        ("gemma-v3-270m-it", "google/gemma-3-270m-it"),
        (None, None),
    ],
)
def test_the_model_has_the_hubs_name(tmp_path, said, model):
    folder = copy_of("gemma_scope_2-jumprelu", tmp_path, leaf=SAE_FOLDER)
    edit_json(folder / "config.json", model_name=said)
    assert load(folder).metadata.get("model_name") == model


def test_a_point_without_another_name_keeps_its_own(tmp_path):
    folder = copy_of("gemma_scope_2-jumprelu", tmp_path, leaf=SAE_FOLDER)
    edit_json(folder / "config.json", hf_hook_point_in="model.norm.output", hf_hook_point_out=None)
    checkpoint = load(folder)
    assert checkpoint.metadata["hook_name"] == "model.norm.output"
    assert "model.norm.output, which is not a hook point" in checkpoint.notes[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: edit_json(folder / "config.json", architecture="topk"), "the architecture is 'topk'"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "params.safetensors").unlink(), "holds no params.safetensors"),
        (lambda folder: (folder / "params.safetensors").write_bytes(b"\0" * 99), "params.safetensors cannot be read"),
        (lambda folder: edit_tensors(folder / "params.safetensors", w_enc=None), "holds no matrix w_enc"),
        (lambda folder: edit_tensors(folder / "params.safetensors", threshold=None), "holds no threshold"),
        (lambda folder: edit_tensors(folder / "params.safetensors", more=torch.ones(1)), "holds more too"),
        (
            lambda folder: edit_tensors(folder / "params.safetensors", w_dec=torch.ones(12, 4, 6)),
            "cross-layer transcoder",
        ),
        (
            lambda folder: edit_tensors(folder / "params.safetensors", affine_skip_connection=torch.ones(5, 6)),
            r"affine_skip_connection with shape \[5, 6\] where \[6, 6\]",
        ),
    ],
)
def test_a_damaged_folder_is_refused_with_one_line(tmp_path, damage, message):
    folder = copy_of("gemma_scope_2-skip-transcoder", tmp_path, leaf=TRANSCODER_FOLDER)
    damage(folder)
    assert_refused(folder, message)
