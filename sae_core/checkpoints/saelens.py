"""SAELens: `cfg.json` and `sae_weights.safetensors`. SeeSAE's own layout on disk is that of its version 6.

SAEs are read and written as sae-lens 6.54 (`sae_lens/saes`, `sae_lens/loading`) does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_core.checkpoints import saelens_model, saelens_pre6
from sae_core.checkpoints.base import UNGATED, UNIT_ROWS, Checkpoint, Format, normalising
from sae_core.checkpoints.fields import Fields, Rule, names
from sae_core.checkpoints.folding import has_unit_rows, normalise_rows, scale_input
from sae_core.checkpoints.reading import (
    Config,
    boolean,
    build,
    cannot_read,
    kept_k,
    positive_int,
    read_json,
    read_safetensors,
    select_weights,
    subdict,
    whole_k,
)
from sae_core.errors import CheckpointError
from sae_core.files import sha256_file, write_json
from sae_core.saes import SAE, Gated, JumpReLU, SAEConfig, Standard, TopK
from sae_core.saes.normalisation import NORMALISATIONS
from sae_core.tensor_files import write_tensors

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"
SCALED = "expected_average_only_in"
"""The normalisation by one number for all tokens, which is in the weights once SAELens has set it to `none`."""
VERSION = "6.0.0"
"""Without a version of at least 6, SAELens takes a config for an older one and drops its metadata."""


def _name(architecture: str, transcoder: bool, skip: bool) -> str:
    """SAELens' name; of TopK it has no transcoders, so that theirs are SeeSAE's own."""
    if not transcoder:
        return architecture
    kind = "skip_transcoder" if skip else "transcoder"
    return kind if architecture == "standard" else f"{architecture}_{kind}"


ARCHITECTURES: dict[str, tuple[type[SAE], bool, bool]] = {
    **{
        _name(architecture.architecture, transcoder, skip): (architecture, transcoder, skip)
        for architecture in (Standard, JumpReLU, TopK)
        for transcoder, skip in ((False, False), (True, False), (True, True))
    },
    "gated": (Gated, False, False),
    "batchtopk": (JumpReLU, False, False),
    "matryoshka_batchtopk": (JumpReLU, False, False),
}
"""SAELens' names, and for each our class, whether it is a transcoder, and whether it has a skip connection.

The last two are those of checkpoints from the middle of a training; what SAELens saves in the end is a `jumprelu`.
"""

FIELDS = Fields(
    applied=names(
        "architecture d_in d_sae d_out k apply_b_dec_to_input normalize_activations reshape_activations "
        "rescale_acts_by_decoder_norm metadata.seesae"
    ),
    harmless=names(
        # SAEs that SeeSAE fetched from the hub have the last two; the rest is of SAELens' training configs.
        "dtype device aux_loss_coefficient b_dec_init_method decoder_heuristic_init decoder_init_norm "
        "init_encoder_as_decoder_transpose jumprelu_bandwidth jumprelu_init_threshold "
        "jumprelu_sparsity_loss_mode jumprelu_tanh_scale l0_coefficient l0_warm_up_steps l1_coefficient "
        "l1_warm_up_steps lp_norm matryoshka_widths mse_loss_normalization noise_scale pre_act_loss_coefficient "
        "scale_sparsity_penalty_by_decoder_norm topk_threshold_lr use_matryoshka_aux_loss use_sparse_activations "
        "metadata.source metadata.revision"
    ),
) | saelens_model.FIELDS.under("metadata")
"""Everything that a config of version 6 can hold."""
SCALER_FIELDS = Fields(
    applied=frozenset({"scaling_factor"}),
    refused={
        "has_whitening": Rule(
            "activations are whitened, which is not folded into the weights yet. "
            "Give the SAE that SAELens saved at the end of the training."
        )
    },
)


def holds_sae(folder: Path) -> bool:
    """True if both files of an SAE are in the folder; what is in them is not looked at."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def write(sae: SAE, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write the inference form of an SAE so that SAELens and SeeSAE can read it.

    The config is written last, with the hash of the weights: a folder that has a config is complete. SAELens can load
    everything but a transcoder with TopK, which it has no class for.

    Args:
        sae: in any form; `for_inference` is applied.
        folder: made if it is missing.
        metadata: `model_name`, `hook_name` (TransformerLens' name), `context_size`, `prepend_bos`, and under `seesae`
            whatever else should travel with the weights, such as the training config.

    Raises:
        CheckpointError: SAELens has no format for what the SAE does.
        ArtifactError: the disk is full.
    """
    sae = sae.for_inference()
    if sae.is_transcoder and sae.config.normalize_activations != "none":
        raise CheckpointError("SAELens has no transcoder that normalises its input. Save an SAE without normalisation.")
    tensors: dict[str, Tensor] = dict(sae.named_parameters())
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.t()  # [d_out, d_in], as SAELens has it
    write_tensors(folder / WEIGHTS, tensors)
    config = {
        "architecture": _name(sae.architecture, sae.is_transcoder, sae.config.skip),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.config.apply_b_dec_to_input and not sae.is_transcoder,
        "normalize_activations": sae.config.normalize_activations,
        "reshape_activations": "none",
        "metadata": {
            **metadata,
            "sae_lens_version": VERSION,
            "seesae": {**subdict(metadata, "seesae"), "weights_sha256": sha256_file(folder / WEIGHTS)},
        },
    }
    if sae.k is not None:
        config["k"] = sae.k
    if sae.is_transcoder:
        config["d_out"] = sae.d_out
    if isinstance(sae, TopK):  # which changes nothing where rows have norm 1, and lets SAEDashboard fold that norm
        config["rescale_acts_by_decoder_norm"] = has_unit_rows(sae.W_dec)
    write_json(folder / CONFIG, config)


def read(folder: Path, activation_scale: float | None = None) -> Checkpoint:
    """Read an SAE of any version of SAELens, or of SeeSAE.

    Args:
        folder: of the SAE.
        activation_scale: what activations were multiplied by in training, where the files do not say it.

    Raises:
        CheckpointError: a file is missing or damaged, or says something that SeeSAE cannot do; or the scale is needed
            and not given, or given and not needed.
    """
    path = folder / CONFIG
    config, notes = _read_config(path)
    architecture, sae_config = _sae_config(path, config, notes)
    tensors = _read_weights(folder, config, architecture, sae_config, notes)
    if boolean(path, config, "rescale_acts_by_decoder_norm", default=False) and normalise_rows(tensors):
        notes.append(UNIT_ROWS)
    scale = _unfolded_scale(folder, config, activation_scale, notes)
    if scale is not None:
        scale_input(tensors, scale)
        notes.append(
            f"The encoder was multiplied, and the decoder divided, by {scale:.4g}, the scale of the activations."
        )
    sae = build(folder / WEIGHTS, architecture, sae_config, tensors, subdict(config, "metadata"))
    if architecture is Gated:
        notes.append(UNGATED)
    return Checkpoint(sae, FORMAT.name, notes)


def _read_config(path: Path) -> tuple[Config, list[str]]:
    """Return the config, of version 6 whatever version wrote it, and notes on its fields."""
    config: Config = read_json(path)
    if "meta" in config:  # as version 6 called it before its release
        config = {"metadata": config["meta"], **{name: value for name, value in config.items() if name != "meta"}}
    if "metadata" in config:
        return config, FIELDS.check(path, config)
    renamed = "The config is from before version 6 of SAELens; its keys were renamed."
    return saelens_pre6.upgraded(path, config), [renamed, *saelens_pre6.FIELDS.check(path, config)]


def _sae_config(path: Path, config: Config, notes: list[str]) -> tuple[type[SAE], SAEConfig]:
    """Our class and config, once everything in `cfg.json` is known to be something that SeeSAE can do."""
    name = config.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise cannot_read(path, "the architecture is", name, tuple(ARCHITECTURES))
    architecture, transcoder, skip = ARCHITECTURES[name]
    if config.get("reshape_activations", "none") not in ("none", "hook_z"):  # hook_z: heads side by side, as we have it
        raise cannot_read(path, "reshape_activations is", config["reshape_activations"], ("none", "hook_z"))
    d_in, d_sae = positive_int(path, config, "d_in"), positive_int(path, config, "d_sae")
    values: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, "skip": skip}
    if transcoder:
        values["d_out"] = positive_int(path, config, "d_out", default=d_in)
    elif config.get("d_out", d_in) != d_in:
        raise CheckpointError(
            f"{path} says d_out is {config['d_out']!r}, but {name!r} is not a transcoder. Check both."
        )
    else:
        values["apply_b_dec_to_input"] = boolean(path, config, "apply_b_dec_to_input", default=True)
    if architecture is TopK:
        values["k"] = whole_k(path, config, d_sae, default=100)
    elif architecture is JumpReLU:  # SAELens has none there; we keep training's aim
        values["k"] = kept_k(path, config, d_sae)
    values["normalize_activations"] = _normalisation(path, config, transcoder, notes)
    return architecture, architecture.Config(**values)


def _normalisation(path: Path, config: Config, transcoder: bool, notes: list[str]) -> str:
    """Return what is done to each token's activations; one scale for all tokens goes into the weights instead."""
    name = config.get("normalize_activations") or "none"
    if name == SCALED:
        return "none"
    if name not in NORMALISATIONS:
        raise cannot_read(path, "normalize_activations is", name, (*NORMALISATIONS, SCALED))
    if name != "none":
        if transcoder:  # SAELens normalises what a transcoder reads, and does not undo it in what it predicts
            raise cannot_read(path, "a transcoder's normalize_activations is", name, ("none", SCALED))
        notes.append(normalising(name))
    return str(name)


def _read_weights(
    folder: Path, config: Config, architecture: type[SAE], sae_config: SAEConfig, notes: list[str]
) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    recorded = subdict(subdict(config, "metadata"), "seesae").get("weights_sha256")
    if recorded is not None and path.is_file() and sha256_file(path) != recorded:
        raise CheckpointError(f"{path} is not the file that {CONFIG} was written with. Copy the SAE here again.")
    tensors = read_safetensors(path)
    saelens_pre6.drop_scaling_factor(path, tensors)
    names = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
    if architecture is Gated:
        del names["b_enc"]
        names |= {"b_gate": "b_enc", "b_mag": "b_mag", "r_mag": "r_mag"}
    if architecture is JumpReLU:
        names["threshold"] = "threshold"
    if sae_config.skip:
        names["W_skip"] = "W_skip.T"
    if architecture is JumpReLU and "topk_threshold" in tensors:
        threshold = tensors.pop("topk_threshold")
        tensors["threshold"] = threshold.reshape(-1).expand(sae_config.d_sae) if threshold.numel() == 1 else threshold
        notes.append("All features got the one threshold that BatchTopK had learned.")
    return select_weights(path, tensors, names, sae_config)


def _unfolded_scale(folder: Path, config: Config, given: float | None, notes: list[str]) -> float | None:
    """Return the scale of the activations in training that is not in the weights yet; None if there is none.

    While SAELens trains, a file of its own holds it. Where there is none, only the user can know it.
    """
    stored = _stored_scale(folder / SCALER, notes)
    needed = stored is None and config.get("normalize_activations") == SCALED
    if given is not None and not needed:
        raise CheckpointError(
            f"{folder} says the scale of the activations itself, or that there is none. Leave `activation_scale` out."
        )
    if needed and given is None:
        raise CheckpointError(
            f"{folder / CONFIG} says normalize_activations is {SCALED!r}, but not by what activations were multiplied "
            "in training. Give it as `activation_scale`, which SAELens calls norm_scaling_factor (√d_in over their "
            "mean norm); 1 if it is in the weights already."
        )
    return given if needed else stored


def _stored_scale(path: Path, notes: list[str]) -> float | None:
    if not path.is_file():
        return None
    scaler = read_json(path)
    notes.extend(SCALER_FIELDS.check(path, scaler))
    scale = scaler.get("scaling_factor")
    if scale is not None and (type(scale) not in (int, float) or not 0 < scale < float("inf")):
        raise CheckpointError(f"{path} says scaling_factor is {scale!r}, not a positive number. Copy the SAE again.")
    return scale


FORMAT = Format("saelens", WEIGHTS, read, config=CONFIG, mark="d_sae", extras=(SCALER,), write=write, read_scaled=read)
