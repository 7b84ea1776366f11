import pytest
import torch

from sae_core.checkpoints import load
from tests.core.checkpoints.examples import assert_refused, copy_of, edit_json, edit_tensors

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"


def test_the_folder_says_which_model(tmp_path):
    folder = copy_of("llama_scope-jumprelu", tmp_path / "Llama3_1-8B-Base-L3R-8x")
    assert load(folder).metadata["model_name"] == "meta-llama/Llama-3.1-8B"
    assert load(folder / WEIGHTS).metadata == load(folder).metadata


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "holds no hyperparams.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no final.safetensors"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"?"), "final.safetensors cannot be read"),
        (lambda folder: edit_json(folder / CONFIG, act_fn="topk"), "act_fn is 'topk'"),
        (lambda folder: edit_json(folder / CONFIG, norm_activation="token-wise"), "norm_activation is 'token-wise'"),
        (lambda folder: edit_json(folder / CONFIG, hook_point_out="blocks.3.hook_mlp_out"), "that of a transcoder"),
        (lambda folder: edit_json(folder / CONFIG, d_model=7), r"encoder.weight with shape \[12, 6\] where \[12, 7\]"),
        (lambda folder: edit_json(folder / CONFIG, d_sae=None), "d_sae is None"),
        (lambda folder: edit_json(folder / CONFIG, jump_relu_threshold=None), "jump_relu_threshold is None"),
        (lambda folder: edit_json(folder / CONFIG, dataset_average_activation_norm={"in": 0}), "in is 0"),
        (lambda folder: edit_json(folder / CONFIG, dataset_average_activation_norm=[1]), "in is None"),
        (lambda folder: edit_json(folder / CONFIG, dataset_average_activation_norm={"in": 1e-300}), "infinite values"),
        (lambda folder: edit_tensors(folder / WEIGHTS, decoder__bias=None), "holds no decoder.bias"),
        (lambda folder: edit_tensors(folder / WEIGHTS, encoder_glu__bias=torch.ones(12)), "holds encoder_glu.bias too"),
    ],
)
def test_a_damaged_folder_is_refused_with_one_line(tmp_path, damage, message):
    folder = copy_of("llama_scope-jumprelu", tmp_path)
    damage(folder)
    assert_refused(folder, message)
