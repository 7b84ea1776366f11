import json
import os

import pytest
import torch
from safetensors.torch import load_file

from sae_core.checkpoints import load, sparsify
from sae_core.errors import CheckpointError
from tests.core.checkpoints.examples import (
    EXAMPLES,
    METADATA,
    X,
    assert_computes,
    assert_refused,
    assert_same,
    copy_of,
    edit_json,
    edit_tensors,
    keep_largest,
)

EXACT = ["topk-autoencoder", "topk-square-transcoder", "topk-square-skip-transcoder"]


def sparsify_forward(folder, x):
    """What sparsify's `SparseCoder` computes, written out from its source."""
    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae.safetensors")
    assert set(w) == {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} | ({"W_skip"} & set(w))
    y = x if config["transcode"] else x - w["b_dec"]
    f = keep_largest((y @ w["encoder.weight"].T + w["encoder.bias"]).relu(), config["k"])
    out = f @ w["W_dec"] + w["b_dec"]
    return f, out + x @ w["W_skip"].T if config["skip_connection"] else out


@pytest.mark.parametrize("name", [*EXACT, "topk-off-centre"])
def test_sparsify_computes_what_we_do(tmp_path, name):
    sparsify.write(EXAMPLES[name], tmp_path, METADATA)
    assert_computes(EXAMPLES[name].for_inference(), *sparsify_forward(tmp_path, X))
    read = load(tmp_path)
    assert_computes(read.sae, *sparsify_forward(tmp_path, X))
    assert (read.format, read.metadata) == ("sparsify", METADATA)


@pytest.mark.parametrize("name", EXACT)
def test_the_round_trip_is_exact_if_nothing_is_folded(tmp_path, name):
    sparsify.write(EXAMPLES[name], tmp_path, METADATA)
    assert_same(load(tmp_path).sae, EXAMPLES[name].for_inference())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("standard-autoencoder", "has only topk, not standard. Export this one as saelens"),
        ("batchtopk-autoencoder", "has only topk, not batchtopk"),
        ("topk-transcoder", "one width, not 6 and 5"),
        ("topk-layer-norm", "cannot normalise"),
    ],
)
def test_saes_that_the_format_cannot_hold_are_not_written(tmp_path, name, message):
    with pytest.raises(CheckpointError, match=message):
        sparsify.write(EXAMPLES[name], tmp_path, METADATA)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "hook"),
    [
        ("layers.3", "blocks.3.hook_resid_post"),
        ("model.layers.11", "blocks.11.hook_resid_post"),
        ("transformer.h.0.mlp", "blocks.0.mlp.hook_out"),
        ("gpt_neox.layers.3.attention", "blocks.3.attn.hook_out"),
        ("layers.3.self_attn", "blocks.3.attn.hook_out"),
        ("layers.3.mlp.up_proj", "layers.3.mlp.up_proj"),
        ("embed_tokens", "embed_tokens"),
    ],
)
def test_the_folder_is_named_after_the_module(tmp_path, folder, hook):
    copy_of("sparsify-topk-expansion", tmp_path)
    checkpoint = load((tmp_path / "layers.3").rename(tmp_path / folder))
    assert checkpoint.metadata == {"hook_name": hook}
    unknown = [note for note in checkpoint.notes if "not a hook point" in note]
    assert len(unknown) == (hook == folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "groupmax"}, "the activation is 'groupmax', which cannot be read. Give one of topk"),
        ({"signed": True}, "signed is True"),
        ({"skip_connection": True}, "gives an autoencoder a skip connection"),
        ({"skip_connection": True, "transcode": True}, "holds no W_skip"),
        ({"d_in": None}, "d_in is None"),
        ({"d_in": 7}, r"encoder.weight with shape \[12, 6\] where \[12, 7\]"),
        ({"num_latents": 13}, r"encoder.weight with shape \[12, 6\] where \[13, 6\]"),
        ({"num_latents": -1}, "num_latents is -1"),
        ({"num_latents": 0, "expansion_factor": 1.5}, "expansion_factor is 1.5"),
        ({"num_latents": 0, "expansion_factor": 10**14}, "where .600000000000000, 6. is expected"),
        ({"k": 13}, "k is 13, more than its 12 features"),
        ({"k": "3"}, "k is '3'"),
    ],
)
def test_an_invalid_config_is_refused(tmp_path, changes, message):
    folder = copy_of("sparsify-topk", tmp_path, leaf="layers.3")
    edit_json(folder / "cfg.json", **changes)
    assert_refused(folder, message)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "cfg.json").unlink(), "holds no cfg.json"),
        (lambda folder: (folder / "sae.safetensors").unlink(), "holds no sae.safetensors"),
        (lambda folder: os.truncate(folder / "sae.safetensors", 400), "sae.safetensors cannot be read"),
        (lambda folder: edit_tensors(folder / "sae.safetensors", encoder__bias=None), "holds no encoder.bias"),
        (lambda folder: edit_tensors(folder / "sae.safetensors", W_skip=torch.ones(6, 6)), "holds W_skip too"),
        (
            lambda folder: edit_tensors(folder / "sae.safetensors", W_dec=torch.full((12, 6), torch.nan)),
            "NaN or infinite values in W_dec",
        ),
        (lambda folder: (folder / "../config.json").write_text("{"), "config.json cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused_with_one_line(tmp_path, damage, message):
    folder = copy_of("sparsify-topk", tmp_path, leaf="layers.3")
    damage(folder)
    assert_refused(folder, message)
