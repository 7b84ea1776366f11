"""OpenAI's autoencoders of GPT-2 small: one `.pt` file, a state dict with the name of the activation in it.

The names, and what is computed, are those of `model.py` and `paths.py` in openai/sparse_autoencoder.
"""

import re
from pathlib import Path
from typing import Any

from sae_core.checkpoints.base import TRANSPOSED, Checkpoint, Format, normalising
from sae_core.checkpoints.fields import Fields
from sae_core.checkpoints.reading import (
    build,
    cannot_read,
    drop_none,
    read_pickle,
    select_weights,
    subdict,
    whole_k,
    widths,
)
from sae_core.errors import CheckpointError
from sae_core.saes import SAE, SAEConfig, Standard, TopK
from sae_core.saes.standard import StandardConfig
from sae_core.saes.topk import TopKConfig

NAMES = {
    "encoder.weight": "W_enc.T",
    "latent_bias": "b_enc",
    "decoder.weight": "W_dec.T",
    "pre_bias": "b_dec",
}
FIELDS = Fields(
    applied=frozenset({"activation", "activation_state_dict.k", "activation_state_dict.postact_fn"}),
    harmless=frozenset({"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}),
)
"""Entries of the file that are not weights."""
IGNORED = FIELDS.harmless | {"activation", "activation_state_dict"}
POINTS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
"""The package's names of points of a layer, which are folders' names, and TransformerLens' (from its README)."""


def read(path: Path) -> Checkpoint:
    """Read a file such as `gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt`, or a folder that holds one.

    Raises:
        CheckpointError: there is no such file, it is damaged, or says something that SeeSAE cannot do.
    """
    path = path if path.is_file() else _only_file(path)
    tensors = read_pickle(path)
    d_sae, d_in = widths(path, tensors, "encoder.weight")
    architecture, config = _architecture(path, tensors, d_in, d_sae)
    notes = [TRANSPOSED, *FIELDS.check(path, {name: value for name, value in tensors.items() if name in IGNORED})]
    weights = select_weights(path, tensors, NAMES, config, ignored=IGNORED)
    if config.normalize_activations != "none":
        notes.append(normalising(config.normalize_activations))
    return Checkpoint(build(path, architecture, config, weights, _metadata(path)), FORMAT.name, notes)


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.pt"))
    if len(files) != 1:
        raise CheckpointError(f"{folder} holds {len(files)} .pt files. Give the path of one.")
    return files[0]


def _architecture(path: Path, tensors: dict[str, Any], d_in: int, d_sae: int) -> tuple[type[SAE], SAEConfig]:
    """Our class and config; OpenAI's code normalises the input of TopK, and only of TopK."""
    activation = tensors.get("activation", "ReLU")
    if activation == "ReLU":
        return Standard, StandardConfig(d_in=d_in, d_sae=d_sae)
    if activation != "TopK":
        raise cannot_read(path, "the activation is", activation, ("ReLU", "TopK"))
    state = subdict(tensors, "activation_state_dict")
    if state.get("postact_fn", "ReLU") != "ReLU":
        raise cannot_read(path, "postact_fn is", state["postact_fn"], ("ReLU",))
    k = whole_k(path, state, d_sae)
    return TopK, TopKConfig(d_in=d_in, d_sae=d_sae, k=k, normalize_activations="layer_norm")


def _metadata(path: Path) -> dict[str, Any]:
    """Return the metadata in the folders' names."""
    place = path.absolute().as_posix()
    point = next((point for name, point in POINTS.items() if re.search(rf"/{name}(_v\d\w*)?/", place)), None)
    return drop_none(
        model_name="gpt2-small" if "gpt2-small" in place else None,
        hook_name=f"blocks.{path.stem}.{point}" if point and path.stem.isdecimal() else None,
    )


FORMAT = Format("openai", "*.pt", read)
