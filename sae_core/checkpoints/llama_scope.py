"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`, in bfloat16.

The formula is that of He et al. 2024 (arXiv:2410.20526) as SAELens 6.54 computes it.
"""

from pathlib import Path

import torch

from sae_core.checkpoints.base import TRANSPOSED, Checkpoint, Format
from sae_core.checkpoints.fields import Fields, Rule, names
from sae_core.checkpoints.folding import scale_input
from sae_core.checkpoints.reading import (
    Config,
    boolean,
    build,
    cannot_read,
    drop_none,
    positive_int,
    read_json,
    read_safetensors,
    select_weights,
    subdict,
)
from sae_core.errors import CheckpointError
from sae_core.saes import JumpReLU
from sae_core.saes.jumprelu import JumpReLUConfig

CONFIG = "hyperparams.json"
WEIGHTS = "checkpoints/final.safetensors"
NAMES = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T", "decoder.bias": "b_dec"}

FIELDS = Fields(
    applied=names(
        "hook_point_in hook_point_out d_model d_sae act_fn jump_relu_threshold norm_activation "
        "apply_decoder_bias_to_pre_encoder dataset_average_activation_norm.in dataset_average_activation_norm.out "
    ),
    refused={
        "use_decoder_bias": Rule("SeeSAE's SAEs have this bias. Give an SAE with it.", (None, True)),
        "use_glu_encoder": Rule("SeeSAE has no gated linear units in an encoder. Give an SAE without them."),
        "sae_type": Rule("SeeSAE reads one point and predicts it. Give an SAE.", (None, "sae")),
    },
    said={
        "sparsity_include_decoder_norm": Rule(
            "like SAELens, SeeSAE holds activations against the threshold without it."
        )
    },
    harmless=names(
        # How it was trained: the hyperparams.json of the published SAEs.
        "device seed dtype expansion_factor bias_init_method decoder_exactly_fixed_norm init_decoder_norm "
        "init_encoder_norm init_encoder_with_decoder_transpose lp l1_coefficient l1_coefficient_warmup_steps top_k "
        "k_warmup_steps use_batch_norm_mse use_ghost_grads tp_size ddp_size sae_pretrained_name_or_path "
        "strict_loading"
    ),
)


def read(folder: Path) -> Checkpoint:
    """Read an SAE; the scale of its input is folded into the weights and the threshold.

    Raises:
        CheckpointError: a file is missing or damaged, or says something that SeeSAE cannot do.
    """
    path, config = folder / CONFIG, read_json(folder / CONFIG)
    _require_readable(path, config)
    d_in = positive_int(path, config, "d_model")
    sae_config = JumpReLUConfig(
        d_in=d_in,
        d_sae=positive_int(path, config, "d_sae"),
        apply_b_dec_to_input=boolean(path, config, "apply_decoder_bias_to_pre_encoder", default=False),
    )
    scale = d_in**0.5 / _positive(path, subdict(config, "dataset_average_activation_norm"), "in")
    threshold = scale * _positive(path, config, "jump_relu_threshold")
    weights = select_weights(folder / WEIGHTS, read_safetensors(folder / WEIGHTS), NAMES, sae_config)
    weights["threshold"] = torch.full((sae_config.d_sae,), threshold, dtype=torch.float64).float()
    scale_input(weights, scale)
    notes = [
        TRANSPOSED,
        f"The encoder was multiplied, and the decoder divided, by {scale:.4g}, the scale of the activations.",
        f"The threshold was multiplied by {scale:.4g} too, as SAELens does.",
        *FIELDS.check(path, config),
    ]
    metadata = drop_none(
        model_name="meta-llama/Llama-3.1-8B" if "Llama3_1-8B-Base" in str(folder.absolute()) else None,
        hook_name=config.get("hook_point_in"),
        context_size=1024,
        prepend_bos=True,
    )
    return Checkpoint(build(folder / WEIGHTS, JumpReLU, sae_config, weights, metadata), FORMAT.name, notes)


def _require_readable(path: Path, config: Config) -> None:
    if config.get("act_fn") != "jumprelu":
        raise cannot_read(path, "act_fn is", config.get("act_fn"), ("jumprelu",))
    if config.get("norm_activation", "dataset-wise") != "dataset-wise":
        raise cannot_read(path, "norm_activation is", config["norm_activation"], ("dataset-wise",))
    if config.get("hook_point_out", config.get("hook_point_in")) != config.get("hook_point_in"):
        raise CheckpointError(
            f"{path} is that of a transcoder, which Llama Scope scales in two ways and which cannot be read. "
            "Give an SAE: one whose hook_point_in and hook_point_out are the same."
        )


def _positive(path: Path, config: Config, name: str) -> float:
    number = config.get(name)
    if not isinstance(number, int | float) or not 0 < number < float("inf"):
        raise CheckpointError(f"{path} says {name} is {number!r}, not a positive number. Copy the SAE here again.")
    return float(number)


FORMAT = Format("llama_scope", WEIGHTS, read, config=CONFIG, mark="dataset_average_activation_norm")
