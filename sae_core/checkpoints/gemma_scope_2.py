"""Gemma Scope 2: `params.safetensors`, mostly with a `config.json`, in folders such as `resid_post/layer_9_width_16k`.

The keys, and what they mean, are those that SAELens 6.54 reads (`gemma_3` in its loaders).
"""

import re
from pathlib import Path
from typing import Any

from sae_core.checkpoints.base import Checkpoint, Format
from sae_core.checkpoints.fields import Fields, Rule, names
from sae_core.checkpoints.reading import (
    Config,
    boolean,
    build,
    cannot_read,
    drop_none,
    read_json,
    read_safetensors,
    select_weights,
    widths,
)
from sae_core.errors import CheckpointError
from sae_core.saes import JumpReLU
from sae_core.saes.jumprelu import JumpReLUConfig

CONFIG = "config.json"
WEIGHTS = "params.safetensors"
NAMES = {"w_enc": "W_enc", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}
SKIP = "affine_skip_connection"
TYPES = (None, "sae", "transcoder")
POINTS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Names of a point of a layer in `transformers` and in TransformerLens."""
FOLDERS = {
    "resid_post": ("output", None),
    "attn_out": ("self_attn.o_proj.input", None),
    "mlp_out": ("post_feedforward_layernorm.output", None),
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
}
"""Points by the folder's name, for SAEs without a config."""
FIELDS = Fields(
    applied=names("architecture model_name hf_hook_point_in hf_hook_point_out affine_connection"),
    refused={
        "type": Rule("SeeSAE reads one point and predicts one. Give an SAE or the transcoder of one layer.", TYPES),
    },
    harmless=names("width l0"),  # the weights have the width
)


def read(folder: Path) -> Checkpoint:
    """Read an SAE or transcoder.

    Raises:
        CheckpointError: a file is missing or damaged, or says something that SeeSAE cannot do.
    """
    path, place = folder / WEIGHTS, folder.absolute().as_posix()
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else _inferred(place)
    if config.get("architecture") != "jump_relu":
        raise cannot_read(folder / CONFIG, "the architecture is", config.get("architecture"), ("jump_relu",))
    tensors = read_safetensors(path)
    notes = FIELDS.check(folder / CONFIG, config)
    if boolean(folder / CONFIG, config, "affine_connection", default=False) and SKIP not in tensors:
        raise CheckpointError(
            f"{folder / CONFIG} says affine_connection, but {WEIGHTS} holds no {SKIP}. Check that they are a pair."
        )
    decoder = tensors.get("w_dec")
    if decoder is not None and decoder.ndim == 3:
        raise CheckpointError(
            f"{path} holds a cross-layer transcoder, which predicts many layers at once and cannot be read. "
            "Give the transcoder of one layer."
        )
    into, out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    transcoder = SKIP in tensors or (out is not None and out != into)
    d_in, d_sae = widths(path, tensors, "w_enc")
    sae_config = JumpReLUConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=widths(path, tensors, "w_dec")[1] if transcoder else None,
        skip=SKIP in tensors,
        apply_b_dec_to_input=False,
    )
    names = {**NAMES, SKIP: "W_skip"} if sae_config.skip else NAMES
    metadata = drop_none(
        model_name=_model_name(config.get("model_name")),
        hook_name=_hook(into),
        hook_name_out=_hook(out) if transcoder else None,
        context_size=1024,
        prepend_bos=True,
    )
    weights = select_weights(path, tensors, names, sae_config)
    return Checkpoint(build(path, JumpReLU, sae_config, weights, metadata), FORMAT.name, notes)


def _inferred(place: str) -> Config:
    """Return what config.json would say, as far as the folders' names tell."""
    config: dict[str, Any] = {"architecture": "jump_relu"}
    if repository := re.search(r"gemma-scope-2-([\w.]+-(?:pt|it))", place):
        config["model_name"] = f"gemma-3-{repository[1]}"
    kind = next((kind for kind in FOLDERS if kind in place), None)
    layer = re.search(r"layer_(\d+)", place)
    if kind and layer:
        points = zip(("hf_hook_point_in", "hf_hook_point_out"), FOLDERS[kind], strict=True)
        config |= {name: f"model.layers.{layer[1]}.{point}" for name, point in points if point}
    return config


def _model_name(name: str | None) -> str | None:
    """The hub's name: `gemma-v3-1b-pt` -> `google/gemma-3-1b-pt`; the smallest has no `-pt` there."""
    if not isinstance(name, str):
        return None
    name = name.removeprefix("google/").replace("-v3", "-3")
    return "google/" + (name.removesuffix("-pt") if "270m" in name else name)


def _hook(point: str | None) -> str | None:
    """TransformerLens' name of a point, where it has one: `model.layers.3.output` -> `blocks.3.hook_resid_post`."""
    place = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", str(point))
    return f"blocks.{place[1]}.{POINTS[place[2]]}" if place and place[2] in POINTS else point


FORMAT = Format("gemma_scope_2", WEIGHTS, read, config=CONFIG, mark="hf_hook_point_in")
