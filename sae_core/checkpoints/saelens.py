"""SAELens: `cfg.json` and `sae_weights.safetensors`. SeeSAE's own layout on disk is that of its version 6.

SAEs are read and written as sae-lens 6.54 (`sae_lens/saes`, `sae_lens/loading`) does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_core.checkpoints import saelens_pre6
from sae_core.checkpoints.base import UNGATED, UNIT_ROWS, Checkpoint, Format, normalising
from sae_core.checkpoints.folding import has_unit_rows, normalise_rows, scale_input
from sae_core.checkpoints.reading import (
    Config,
    build,
    cannot_read,
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
FOLDED = ("expected_average_only_in", "covariance_whitening")
"""Normalisations that SAELens folds into the weights when training ends, and does not apply when the SAE runs."""
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


def read(folder: Path) -> Checkpoint:
    """Read an SAE of any version of SAELens, or of SeeSAE.

    Raises:
        CheckpointError: a file is missing or damaged, or says something that SeeSAE cannot do.
    """
    path, notes = folder / CONFIG, list[str]()
    config: Config = read_json(path)
    if "metadata" not in config:
        config = saelens_pre6.upgraded(path, config)
        notes.append("The config is from before version 6 of SAELens; its keys were renamed.")
    architecture, sae_config = _sae_config(path, config, notes)
    tensors = _read_weights(folder, config, architecture, sae_config, notes)
    if config.get("rescale_acts_by_decoder_norm") and normalise_rows(tensors):
        notes.append(UNIT_ROWS)
    if (folder / SCALER).is_file():
        _fold_scaler(folder / SCALER, tensors, notes)
    sae = build(folder / WEIGHTS, architecture, sae_config, tensors, subdict(config, "metadata"))
    if architecture is Gated:
        notes.append(UNGATED)
    return Checkpoint(sae, FORMAT.name, notes)


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
        values["apply_b_dec_to_input"] = bool(config.get("apply_b_dec_to_input", True))
    if architecture is TopK:
        values["k"] = whole_k(path, config, d_sae, default=100)
    elif architecture is JumpReLU and type(config.get("k")) is int:  # SAELens has none there; we keep training's aim
        values["k"] = config["k"]
    values["normalize_activations"] = _normalisation(path, config, transcoder, notes)
    return architecture, architecture.Config(**values)


def _normalisation(path: Path, config: Config, transcoder: bool, notes: list[str]) -> str:
    name = config.get("normalize_activations") or "none"
    if name in FOLDED:
        notes.append(f"The config says {name}; SAELens folds it into the weights when it saves, so nothing was done.")
        return "none"
    if name not in NORMALISATIONS:
        raise cannot_read(path, "normalize_activations is", name, (*NORMALISATIONS, *FOLDED))
    if name != "none":
        if transcoder:  # SAELens normalises what a transcoder reads, and does not undo it in what it predicts
            raise cannot_read(path, "a transcoder's normalize_activations is", name, ("none", *FOLDED))
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


def _fold_scaler(path: Path, tensors: dict[str, Tensor], notes: list[str]) -> None:
    """Fold in the scale of the activations that SAELens keeps in a file of its own until training ends."""
    scaler = read_json(path)
    if scaler.get("has_whitening"):
        raise CheckpointError(
            f"{path} says that activations are whitened, which is not folded into the weights yet. "
            "Give the SAE that SAELens saved at the end of the training."
        )
    scale = scaler.get("scaling_factor")
    if scale is None:
        return
    if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise CheckpointError(f"{path} says scaling_factor is {scale!r}, not a positive number. Copy the SAE again.")
    scale_input(tensors, scale)
    notes.append(f"The encoder was multiplied, and the decoder divided, by {scale:.4g}, the scale of the activations.")


FORMAT = Format("saelens", WEIGHTS, read, config=CONFIG, mark="d_sae", extras=(SCALER,), write=write)
