import os

import numpy as np
import pytest
import torch

from sae_core.checkpoints import load
from tests.core.checkpoints.examples import X, assert_computes, assert_refused, copy_of

SAE_FOLDER = "layer_3/width_16k/average_l0_20"


def edit(folder, **changes):
    """Change arrays; None removes one."""
    arrays = dict(np.load(folder / "params.npz")) | changes
    np.savez(folder / "params.npz", **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("repository", "folder", "expected"),
    [
        ("gemma-scope-2b-pt-res", SAE_FOLDER, ("gemma-2-2b", "blocks.3.hook_resid_post", None)),
        (
            "models--google--gemma-scope-9b-it-res/snapshots/0f",
            SAE_FOLDER,
            ("gemma-2-9b-it", "blocks.3.hook_resid_post", None),
        ),
        ("gemma-scope-27b-pt-mlp", SAE_FOLDER, ("gemma-2-27b", "blocks.3.hook_mlp_out", None)),
        ("gemma-scope-2b-pt-att-canonical", SAE_FOLDER, ("gemma-2-2b", "blocks.3.attn.hook_z", None)),
        (
            "gemma-scope-2b-pt-transcoders",
            SAE_FOLDER,
            ("gemma-2-2b", "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"),
        ),
        ("gemma-scope-2b-pt-res", "width_16k", ("gemma-2-2b", None, None)),
    ],
)
def test_model_and_hook_point_are_those_of_the_folders(tmp_path, repository, folder, expected):
    copy_of("gemma_scope-jumprelu", tmp_path / "copy")
    (tmp_path / repository / folder).parent.mkdir(parents=True)
    checkpoint = load((tmp_path / "copy" / SAE_FOLDER).rename(tmp_path / repository / folder))
    assert tuple(checkpoint.metadata.get(key) for key in ("model_name", "hook_name", "hook_name_out")) == expected
    assert checkpoint.sae.is_transcoder == ("transcoders" in repository)
    assert any("ln2.hook_normalized, which is not a hook point" in note for note in checkpoint.notes) == (
        "transcoders" in repository
    )


def test_embeddings_have_the_scale_of_training(tmp_path):
    plain = load(copy_of("gemma_scope-jumprelu", tmp_path / "copy", leaf=SAE_FOLDER)).sae
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"
    folder.parent.mkdir(parents=True)
    checkpoint = load((tmp_path / "copy" / SAE_FOLDER).rename(folder))
    f = plain.encode(X / 6**0.5)
    assert_computes(checkpoint.sae, f, f @ plain.W_dec * 6**0.5 + plain.b_dec)
    assert checkpoint.metadata["hook_name"] == "hook_embed"
    assert "√d_in" in checkpoint.notes[0]


def test_names_may_be_in_lower_case(tmp_path):
    folder = copy_of("gemma_scope-jumprelu", tmp_path, leaf=SAE_FOLDER)
    expected = load(folder).sae
    arrays = dict(np.load(folder / "params.npz"))
    np.savez(folder / "params.npz", **{name.lower(): array.astype(np.float16) for name, array in arrays.items()})
    torch.testing.assert_close(load(folder).sae.W_enc, expected.W_enc, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "params.npz").write_bytes(b""), "not a whole npz"),
        (lambda folder: os.truncate(folder / "params.npz", 700), "not a whole npz"),
        (lambda folder: edit(folder, W_enc=None), "holds no matrix W_enc"),
        (lambda folder: edit(folder, W_enc=np.ones((6, 0), np.float32)), "holds no matrix W_enc"),
        (lambda folder: edit(folder, W_dec=None), "holds no W_dec"),
        (lambda folder: edit(folder, threshold=np.ones(11, np.float32)), r"threshold with shape \[11\] where \[12\]"),
        (lambda folder: edit(folder, threshold=np.full(12, np.nan, np.float32)), "NaN or infinite values in threshold"),
        (lambda folder: edit(folder, b_dec=np.arange(6)), "b_dec as torch.int64"),
        (lambda folder: edit(folder, b_dec=np.array(["a"] * 6)), "cannot be read"),
        (lambda folder: edit(folder, b_dec=np.array([{}], dtype=object)), "a pickle that runs code"),
    ],
)
def test_a_damaged_file_is_refused_with_one_line(tmp_path, damage, message):
    folder = copy_of("gemma_scope-jumprelu", tmp_path, leaf=SAE_FOLDER)
    damage(folder)
    assert_refused(folder, message)


def test_bytes_that_changed_are_noticed(tmp_path):
    folder = copy_of("gemma_scope-jumprelu", tmp_path, leaf=SAE_FOLDER)
    content = bytearray((folder / "params.npz").read_bytes())
    content[200] ^= 0xFF  # among the first array's numbers
    (folder / "params.npz").write_bytes(content)
    assert_refused(folder, "cannot be read")
