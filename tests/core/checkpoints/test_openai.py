import os

import pytest
import torch

from sae_core.checkpoints import load
from tests.core.checkpoints.examples import assert_refused, copy_of


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt", ("gpt2-small", "blocks.8.hook_resid_post")),
        ("gpt2-small/resid_delta_attn_v5_128k/autoencoders/0.pt", ("gpt2-small", "blocks.0.hook_attn_out")),
        ("gpt2-small/mlp_post_act/autoencoders/11.pt", ("gpt2-small", "blocks.11.mlp.hook_post")),
        ("resid_post_attn_v4/last.pt", (None, None)),
        ("8.pt", (None, None)),
    ],
)
def test_model_and_hook_point_are_those_of_the_folders(tmp_path, path, expected):
    copy_of("openai-topk", tmp_path / "copy")
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    checkpoint = load((tmp_path / "copy" / "autoencoder.pt").rename(tmp_path / path))
    assert (checkpoint.metadata.get("model_name"), checkpoint.metadata.get("hook_name")) == expected
    assert checkpoint.sae.k == 3


def edit(folder, **changes):
    state = torch.load(folder / "autoencoder.pt", weights_only=True)
    state |= {name.replace("__", "."): value for name, value in changes.items()}
    torch.save({name: value for name, value in state.items() if value is not None}, folder / "autoencoder.pt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: os.truncate(folder / "autoencoder.pt", 900), "autoencoder.pt cannot be read"),
        (lambda folder: torch.save(torch.nn.Linear(6, 6), folder / "autoencoder.pt"), "a pickle that runs code"),
        (lambda folder: torch.save({"epoch": 3}, folder / "autoencoder.pt"), "holds no matrix encoder.weight"),
        (lambda folder: (folder / "other.pt").touch(), "holds 2 .pt files. Give the path of one"),
        (lambda folder: edit(folder, activation="Softplus"), "the activation is 'Softplus'"),
        (lambda folder: edit(folder, activation_state_dict={"k": 3, "postact_fn": "Identity"}), "postact_fn is 'Ident"),
        (lambda folder: edit(folder, activation_state_dict={"k": 13}), "k is 13, more than its 12 features"),
        (lambda folder: edit(folder, activation_state_dict=None), "k is None"),
        (lambda folder: edit(folder, pre_bias=None), "holds no pre_bias"),
        (lambda folder: edit(folder, decoder__weight=torch.ones(12, 6)), r"shape \[12, 6\] where \[6, 12\]"),
        (lambda folder: edit(folder, latent_bias=torch.full((12,), torch.inf)), "infinite values in latent_bias"),
        (lambda folder: edit(folder, encoder__weight=torch.ones(1, 1).expand(10**6, 10**6)), "larger than the file"),
        (lambda folder: edit(folder, gate=torch.ones(12)), "holds gate too"),
    ],
)
def test_a_damaged_file_is_refused_with_one_line(tmp_path, damage, message):
    folder = copy_of("openai-topk", tmp_path)
    damage(folder)
    assert_refused(folder, message)
