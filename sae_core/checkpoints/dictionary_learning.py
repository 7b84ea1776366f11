"""dictionary_learning: `ae.pt`, a state dict, and `config.json`, whose `trainer` names the class.

SAEs are read and written as `load_dictionary` of dictionary-learning 0.1.0 computes them.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.checkpoints.base import TRANSPOSED, UNGATED, UNIT_ROWS, Checkpoint, Format
from sae_core.checkpoints.fields import Fields, Rule, names
from sae_core.checkpoints.folding import encoder_bias, has_unit_rows, normalise_rows
from sae_core.checkpoints.model_names import hub_id
from sae_core.checkpoints.reading import (
    Config,
    build,
    cannot_read,
    drop_none,
    kept_k,
    positive_int,
    read_json,
    read_pickle,
    select_weights,
    subdict,
    whole_k,
    widths,
)
from sae_core.errors import CheckpointError
from sae_core.files import write_atomically, write_json
from sae_core.saes import SAE, Gated, JumpReLU, SAEConfig, Standard, TopK

CONFIG = "config.json"
WEIGHTS = "ae.pt"
LINEAR = {"encoder.weight": "W_enc.T", "decoder.weight": "W_dec.T"}
MATRICES = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}


@dataclass(frozen=True)
class _Layout:
    architecture: type[SAE]
    names: Mapping[str, str]
    """The package's names of the tensors, and ours."""
    centred: bool = True
    """True if `b_dec` is subtracted from the input."""
    batch_topk: bool = False
    """True if the threshold is one number, learned by BatchTopK."""


CLASSES = {
    "AutoEncoder": _Layout(Standard, {**LINEAR, "encoder.bias": "b_enc", "bias": "b_dec"}),
    "AutoEncoderNew": _Layout(Standard, {**LINEAR, "encoder.bias": "b_enc", "decoder.bias": "b_dec"}, centred=False),
    "GatedAutoEncoder": _Layout(
        Gated, {**LINEAR, "gate_bias": "b_enc", "mag_bias": "b_mag", "r_mag": "r_mag", "decoder_bias": "b_dec"}
    ),
    "JumpReluAutoEncoder": _Layout(JumpReLU, {**MATRICES, "threshold": "threshold"}, centred=False),
    "AutoEncoderTopK": _Layout(TopK, {**LINEAR, "encoder.bias": "b_enc", "b_dec": "b_dec"}),
    "BatchTopKSAE": _Layout(JumpReLU, {**LINEAR, "encoder.bias": "b_enc", "b_dec": "b_dec"}, batch_topk=True),
    "MatryoshkaBatchTopKSAE": _Layout(JumpReLU, MATRICES, batch_topk=True),
}
"""The package's classes, which have four names for the bias of the decoder."""
POINTS = {
    "resid_post": ("hook_resid_pre", "hook_resid_post"),
    "mlp": ("mlp.hook_in", "mlp.hook_out"),
    "attention": ("attn.hook_in", "attn.hook_out"),
}
"""Submodules of a layer, and TransformerLens' names of their inputs and outputs."""
FIELDS = Fields(
    applied=names(
        "trainer.dict_class trainer.activation_dim trainer.dict_size trainer.k trainer.layer trainer.lm_name "
        "trainer.submodule_name buffer.ctx_len metadata"
    ),
    refused={
        "buffer.io": Rule(
            "it reads one point and predicts another, which none of these classes does. Give an autoencoder.",
            (None, "in", "out"),
        ),
        "buffer.layer": Rule("it was trained on single attention heads. Give an SAE of a layer.", (None,)),
    },
    said={
        "trainer.norm_factor": Rule(
            "activations were divided by it in training; dictionary_learning saves weights that read them undivided.",
            (None, 1, 1.0),
        )
    },
    harmless=names(
        # `config` of the trainers and buffers of version 0.1.0.
        "trainer.trainer_class trainer.device trainer.seed trainer.wandb_name trainer.lr trainer.steps "
        "trainer.warmup_steps trainer.decay_start trainer.l1_penalty trainer.resample_steps "
        "trainer.sparsity_warmup_steps trainer.sparsity_penalty trainer.target_l0 trainer.bandwidth "
        "trainer.auxk_alpha trainer.top_k_aux trainer.threshold_beta trainer.threshold_start_step "
        "trainer.group_fractions trainer.group_weights trainer.group_sizes trainer.initial_sparsity_penalty "
        "trainer.sparsity_function trainer.sparsity_queue_length trainer.n_sparsity_updates trainer.p_start "
        "trainer.p_end trainer.anneal_start trainer.anneal_end buffer.d_submodule buffer.n_ctxs "
        "buffer.refresh_batch_size buffer.out_batch_size buffer.device"
    ),
)


def read(folder: Path) -> Checkpoint:
    """Read a dictionary.

    An `AutoEncoder` is read as `load_dictionary` reads it: decoder rows get unit norm, and activations their norms.

    Raises:
        CheckpointError: a file is missing or damaged, or says something that SeeSAE cannot do.
    """
    path, config = folder / WEIGHTS, read_json(folder / CONFIG)
    trainer = subdict(config, "trainer")
    name = trainer.get("dict_class")
    if not isinstance(name, str) or name not in CLASSES:
        raise cannot_read(folder / CONFIG, "dict_class is", name, tuple(CLASSES))
    notes = FIELDS.check(folder / CONFIG, config)
    layout, names, tensors = CLASSES[name], dict(CLASSES[name].names), read_pickle(path)
    sae_config = _sae_config(folder, trainer, layout, tensors)
    if layout.batch_topk:
        names["threshold"] = "threshold"
        tensors["threshold"] = _for_all(path, tensors.get("threshold"), sae_config.d_sae, notes)
    others = ("k", "threshold", "group_sizes") if layout.architecture is TopK or layout.batch_topk else ()
    weights = select_weights(path, tensors, names, sae_config, ignored=others)
    if "encoder.weight" in names:
        notes.append(TRANSPOSED)
    if name == "AutoEncoder" and normalise_rows(weights):
        notes.append(UNIT_ROWS)
    metadata = subdict(config, "metadata") or _metadata(trainer, subdict(config, "buffer"), notes)
    sae = build(path, layout.architecture, sae_config, weights, metadata)
    if layout.architecture is Gated:
        notes.append(UNGATED)
    return Checkpoint(sae, FORMAT.name, notes)


def _sae_config(folder: Path, trainer: Config, layout: _Layout, tensors: Mapping[str, Any]) -> SAEConfig:
    path = folder / CONFIG
    linear = "encoder.weight" in layout.names
    rows, columns = widths(folder / WEIGHTS, tensors, "encoder.weight" if linear else "W_enc")
    d_in, d_sae = (columns, rows) if linear else (rows, columns)
    values: dict[str, Any] = {
        "d_in": positive_int(path, trainer, "activation_dim", default=d_in),
        "d_sae": positive_int(path, trainer, "dict_size", default=d_sae),
        "apply_b_dec_to_input": layout.centred,
    }
    if layout.architecture is TopK or layout.batch_topk:
        stored = tensors.get("k")
        k = None
        if isinstance(stored, Tensor) and stored.numel() == 1 and not stored.is_complex() and stored.isfinite():
            k = int(stored)
        values["k"] = whole_k(path, trainer, d_sae, default=k)
        if k is not None and k != values["k"]:
            raise CheckpointError(
                f"{path} says k is {values['k']}, but {WEIGHTS} says {k}. Check that they are a pair."
            )
    elif layout.architecture is JumpReLU:  # it has none there; we keep training's aim
        values["k"] = kept_k(path, trainer, d_sae)
    return layout.architecture.Config(**values)


def _for_all(path: Path, threshold: Any, d_sae: int, notes: list[str]) -> Tensor:
    """Return BatchTopK's one threshold for every feature."""
    if not isinstance(threshold, Tensor) or threshold.numel() != 1 or threshold.is_complex():
        raise CheckpointError(f"{path} holds no threshold, or more than one. Copy the SAE here again.")
    if threshold < 0:
        notes.append("The threshold was never learned (it is negative), so every positive activation counts.")
    else:
        notes.append(f"All features got the one threshold that BatchTopK had learned, {float(threshold):.4g}.")
    return threshold.reshape(1).expand(d_sae)


def _metadata(trainer: Config, buffer: Config, notes: list[str]) -> dict[str, Any]:
    hook, layer = trainer.get("submodule_name"), trainer.get("layer")
    place = re.fullmatch(r"(resid_post|mlp|attention)_layer_\d+", str(hook or f"resid_post_layer_{layer}"))
    if place and type(layer) is int:
        hook = f"blocks.{layer}.{POINTS[place[1]][buffer.get('io') != 'in']}"
        if trainer.get("submodule_name") is None:
            notes.append(f"The config names no submodule; it was taken to be the output of layer {layer}.")
    return drop_none(model_name=trainer.get("lm_name"), hook_name=hook, context_size=buffer.get("ctx_len"))


def write(sae: SAE, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write an autoencoder so that dictionary_learning can load it: as AutoEncoder, AutoEncoderTopK or
    JumpReluAutoEncoder.

    Its JumpReLU class does not subtract `b_dec` from its input, so `b_enc` is shifted to the same effect. A standard
    SAE whose decoder rows have norms other than 1 becomes an AutoEncoderNew, because loading an AutoEncoder changes
    activations by those norms.

    Args:
        sae: in any form; `for_inference` is applied.
        folder: made if it is missing.
        metadata: as `sae_core.checkpoints.saelens.write` takes it; written too.

    Raises:
        CheckpointError: dictionary_learning has no class that computes the same.
        ArtifactError: the disk is full.
    """
    sae = sae.for_inference()
    if sae.is_transcoder:
        raise CheckpointError("dictionary_learning has no transcoders. Export this one as saelens.")
    if sae.config.normalize_activations != "none":
        raise CheckpointError(
            "dictionary_learning cannot normalise each token's activations. Export this one as saelens."
        )
    name, tensors = _state_dict(sae)
    hook = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(metadata.get("hook_name")))
    submodule, end = _submodule(hook[2], hook[1]) if hook else (metadata.get("hook_name"), "out")
    trainer = {
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        **drop_none(k=sae.k),
        "layer": int(hook[1]) if hook else None,
        "lm_name": hub_id(metadata["model_name"]) if metadata.get("model_name") else None,
        "submodule_name": submodule,
    }
    buffer = {"d_submodule": sae.d_in, "io": end, "ctx_len": metadata.get("context_size")}
    _write_pickle(folder / WEIGHTS, {key: tensor.detach().contiguous() for key, tensor in tensors.items()})
    write_json(folder / CONFIG, {"trainer": trainer, "buffer": buffer, "metadata": dict(metadata)})


def _write_pickle(path: Path, tensors: Mapping[str, Tensor]) -> None:
    content = io.BytesIO()  # torch.save itself would hide a full disk in an error of its own
    torch.save(dict(tensors), content)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


def _state_dict(sae: SAE) -> tuple[str, dict[str, Tensor]]:
    """Return the class that computes the same as `sae`, and its state."""
    if isinstance(sae, JumpReLU):
        bias = encoder_bias(sae, centred=False)
        return "JumpReluAutoEncoder", {**dict(sae.named_parameters()), "b_enc": bias}
    linear = {"encoder.weight": sae.W_enc.t(), "decoder.weight": sae.W_dec.t()}
    if isinstance(sae, TopK):
        # The threshold is one for running without a batch, which was not learned here.
        numbers = {"k": torch.tensor(sae.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
        bias = encoder_bias(sae, centred=True)
        return "AutoEncoderTopK", {**linear, "encoder.bias": bias, "b_dec": sae.b_dec, **numbers}
    if has_unit_rows(sae.W_dec):
        return "AutoEncoder", {**linear, "encoder.bias": encoder_bias(sae, centred=True), "bias": sae.b_dec}
    return "AutoEncoderNew", {**linear, "encoder.bias": encoder_bias(sae, centred=False), "decoder.bias": sae.b_dec}


def _submodule(point: str, layer: str) -> tuple[str, str]:
    """Return the package's name of a submodule, and "in" or "out"."""
    for name, ends in POINTS.items():
        if point in ends:
            return f"{name}_layer_{layer}", ("in", "out")[ends.index(point)]
    return f"blocks.{layer}.{point}", "out"


FORMAT = Format("dictionary_learning", WEIGHTS, read, config=CONFIG, mark="trainer", write=write)
