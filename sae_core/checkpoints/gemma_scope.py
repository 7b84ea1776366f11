"""Gemma Scope: one `params.npz` an SAE; which model and hook point it is of, only repository and folders say.

The formula is that of Lieberum et al. 2024 (arXiv:2408.05147), the names of hook points are those of SAELens 6.54.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.checkpoints.base import Checkpoint, Format
from sae_core.checkpoints.fields import Fields
from sae_core.checkpoints.reading import build, drop_none, require, runs_code, select_weights, unreadable, widths
from sae_core.errors import CheckpointError
from sae_core.saes import JumpReLU
from sae_core.saes.jumprelu import JumpReLUConfig

WEIGHTS = "params.npz"
NAMES = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}
POINTS = {
    "res": ("hook_resid_post", None),
    "mlp": ("hook_mlp_out", None),
    "att": ("attn.hook_z", None),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
"""The last word of a repository's name, and TransformerLens' names of what is read and, by a transcoder, predicted."""
FIELDS = Fields(applied=frozenset(NAMES))
"""The arrays: there is no config."""


def read(folder: Path) -> Checkpoint:
    """Read an SAE or transcoder from a folder such as `gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path, place = folder / WEIGHTS, folder.absolute().as_posix()
    tensors = _read_npz(path)
    notes = FIELDS.check(path, tensors)
    d_in, d_sae = widths(path, tensors, "W_enc")
    repository = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)", place)
    transcoder = repository is not None and repository[3] == "transcoders"
    d_out = widths(path, tensors, "W_dec")[1] if transcoder else None
    config = JumpReLUConfig(d_in=d_in, d_sae=d_sae, d_out=d_out, apply_b_dec_to_input=False)
    weights = select_weights(path, tensors, NAMES, config, ignored=tensors)
    metadata: dict[str, Any] = {"context_size": 1024, "prepend_bos": True}
    if repository is None:
        notes.append("No folder is named after a Gemma Scope repository, so model and hook point are not known.")
    else:
        metadata |= _origin(repository, place)
    if metadata.get("hook_name") == "hook_embed":
        # Gemma multiplies its embeddings by √d_in, which training undid. SAELens leaves b_dec alone, and so do we.
        weights["W_enc"], weights["W_dec"] = weights["W_enc"] / d_in**0.5, weights["W_dec"] * d_in**0.5
        notes.append("The encoder was divided, and the decoder multiplied, by √d_in, the scale of Gemma's embeddings.")
    return Checkpoint(build(path, JumpReLU, config, weights, metadata), FORMAT.name, notes)


def _origin(repository: re.Match[str], place: str) -> dict[str, Any]:
    """Model and hook points, as far as the folders say."""
    size, tuned, kind = repository.groups()
    model = f"gemma-2-{size}-it" if tuned == "it" else f"gemma-2-{size}"
    if "embedding" in place[repository.end() :]:
        return {"model_name": model, "hook_name": "hook_embed"}
    layer = re.search(r"layer_(\d+)", place[repository.end() :])
    hooks = [f"blocks.{layer[1]}.{point}" if layer and point else None for point in POINTS[kind]]
    return drop_none(model_name=model, hook_name=hooks[0], hook_name_out=hooks[1])


def _read_npz(path: Path) -> dict[str, Tensor]:
    require(path)
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
        raise CheckpointError(f"{path} is not a whole npz file. Copy the SAE here again.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    except Exception as error:  # damaged bytes make parsers raise errors of nearly any kind
        raise (runs_code(path) if "allow_pickle" in str(error) else unreadable(path, error)) from error
    # Some of its repositories have the matrices' names in lower case.
    return {f"W_{name[2:]}" if name.startswith("w_") else name: tensor for name, tensor in arrays.items()}


FORMAT = Format("gemma_scope", WEIGHTS, read)
