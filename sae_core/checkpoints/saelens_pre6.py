"""Configs of SAELens before version 6: everything lies flat in `cfg.json`, under names that changed over time."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.checkpoints import saelens_model
from sae_core.checkpoints.fields import Fields, names
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


FIELDS = (
    Fields(
        applied=names(
            "architecture d_in d_sae activation_fn activation_fn_str activation_fn_kwargs.k apply_b_dec_to_input "
            "normalize_activations reshape_activations finetuning_scaling_factor hook_point"
        ),
        refused={"hook_point_head_index": saelens_model.FIELDS.refused["hook_head_index"]},
        harmless=names(
            # How it was trained: LanguageModelSAERunnerConfig from version 0 to 5.
            "act_store_device adam_beta1 adam_beta2 autocast autocast_lm b_dec_init_method cached_activations_path "
            "checkpoint_path compile_llm compile_sae dead_feature_estimation_method dead_feature_threshold "
            "dead_feature_window decoder_heuristic_init decoder_orthogonal_init device dtype "
            "eval_batch_size_prompts eval_every_n_wandb_logs expansion_factor feature_reinit_scale "
            "feature_sampling_method feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path "
            "hook_eval hook_point_eval hook_point_layer init_encoder_as_decoder_transpose is_dataset_tokenized "
            "jumprelu_bandwidth jumprelu_init_threshold l1_coefficient l1_warm_up_steps llm_compilation_mode "
            "log_activations_store_to_wandb log_optimizer_state_to_wandb log_to_wandb lp_norm lr lr_decay_steps lr_end "
            "lr_scheduler_name lr_warm_up_steps mse_loss_normalization n_batches_in_buffer n_checkpoints "
            "n_eval_batches n_eval_seqs n_restart_cycles noise_scale normalize_sae_decoder resample_batches resume "
            "run_name sae_compilation_mode scale_sparsity_penalty_by_decoder_norm seed store_batch_size "
            "store_batch_size_prompts streaming tokens_per_buffer total_training_tokens train_batch_size "
            "train_batch_size_tokens training_tokens unique_id use_cached_activations use_ghost_grads verbose "
            "wandb_entity wandb_id wandb_log_frequency wandb_project"
        ),
    )
    | saelens_model.FIELDS
)
"""Everything that such a config can hold, under the names that it has there."""


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
