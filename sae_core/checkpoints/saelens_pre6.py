"""Configs of SAELens before version 6: everything lies flat in `cfg.json`, under names that changed over time."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.checkpoints.reading import Config, cannot_read, subdict
from sae_core.errors import CheckpointError

RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
METADATA = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_name",
    "hook_name_out",
    "hook_head_index",
    "context_size",
    "prepend_bos",
    "exclude_special_tokens",
    "seqpos_slice",
    "dataset_path",
    "neuronpedia_id",
    "sae_lens_training_version",
)
"""Keys that version 6 keeps in `metadata` (`LLM_METADATA_KEYS` in `sae_lens/loading/pretrained_sae_loaders.py`)."""


def upgraded(path: Path, config: Config) -> dict[str, Any]:
    """Return the config as version 6 would write it, by the rules of SAELens' `handle_pre_6_0_config`.

    Raises:
        CheckpointError: SeeSAE does not have its activation function.
    """
    new = {RENAMED.get(name, name): value for name, value in config.items()}
    new.setdefault("architecture", "standard")
    new.setdefault("prepend_bos", True)
    if new.get("activation_fn", "relu") not in ("relu", "topk"):
        raise cannot_read(path, "activation_fn is", new["activation_fn"], ("relu", "topk"))
    if new.get("activation_fn") == "topk":
        new |= {"architecture": "topk", "k": subdict(new, "activation_fn_kwargs").get("k")}
    if new.get("normalize_activations") is True:
        new["normalize_activations"] = "expected_average_only_in"
    return {**new, "metadata": {name: new[name] for name in METADATA if name in new}}


def drop_scaling_factor(path: Path, tensors: dict[str, Tensor]) -> None:
    """Drop the factor per feature that was written even when it had not been trained and was one everywhere.

    Raises:
        CheckpointError: the factor was trained.
    """
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
        raise CheckpointError(
            f"{path} holds a scaling_factor that is not 1, which SAELens 6 cannot use either. "
            "Give an SAE that was saved without finetuning_scaling_factor."
        )
