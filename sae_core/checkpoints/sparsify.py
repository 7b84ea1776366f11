"""sparsify: a folder for each hook point with `cfg.json` and `sae.safetensors`, and the run's `config.json` above.

What is read and written is what `SparseCoder` of eai-sparsify 1.3.3 computes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_core.checkpoints.base import Checkpoint, Format
from sae_core.checkpoints.fields import Fields, Rule, names
from sae_core.checkpoints.folding import encoder_bias
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
    whole_k,
)
from sae_core.errors import CheckpointError
from sae_core.files import write_json
from sae_core.saes import SAE, TopK
from sae_core.saes.topk import TopKConfig
from sae_core.tensor_files import write_tensors

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
RUN = "../config.json"
NAMES = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
POINTS = {
    "": ("hook_resid_pre", "hook_resid_post"),
    "mlp": ("mlp.hook_in", "mlp.hook_out"),
    "attention": ("attn.hook_in", "attn.hook_out"),
}
"""A layer and its modules, and TransformerLens' names of what goes into them and comes out."""
FIELDS = Fields(
    applied=names("activation d_in expansion_factor num_latents k transcode skip_connection metadata"),
    refused={
        "signed": Rule("SeeSAE's features are never negative. Give an SAE without it."),
        "embed_skip": Rule("SeeSAE has no skip connection from the embeddings. Give an SAE without it."),
        "gram_lookup": Rule("SeeSAE has no table of n-grams to subtract. Give an SAE without it."),
    },
    harmless=names("normalize_decoder multi_topk lookup_max_order gram_table_hash"),
)
"""`SparseCoderConfig` in sparsify/config.py, with `d_in`."""
RUN_FIELDS = Fields(
    applied=names("model ctx_len revision"),
    said={
        "exclude_tokens": Rule(
            "these tokens were left out of the training; SeeSAE leaves out the tokenizer's special tokens.", (None, [])
        ),
        "load_in_8bit": Rule("SeeSAE runs the model as it is on disk, without quantising it."),
    },
    harmless=names(
        # `sae` repeats cfg.json; the rest is how it was trained: `TrainConfig`, and `RunConfig` in __main__.py.
        "sae batch_size grad_acc_steps micro_acc_steps loss_fn optimizer lr lr_warmup_steps k_decay_steps auxk_alpha "
        "dead_feature_threshold hookpoints init_seeds layers layer_stride distribute_modules save_every save_best "
        "finetune log_to_wandb run_name wandb_log_frequency save_dir gram_table_path dataset split hf_token "
        "max_examples resume text_column shuffle_seed data_preprocessing_num_proc data_args"
    ),
)


def read(folder: Path) -> Checkpoint:
    """Read the sparse coder of one hook point.

    Raises:
        CheckpointError: a file is missing or damaged, or says something that SeeSAE cannot do.
    """
    path, config = folder / CONFIG, read_json(folder / CONFIG)
    notes = FIELDS.check(path, config)
    transcoder, skip = (boolean(path, config, name, default=False) for name in ("transcode", "skip_connection"))
    if config.get("activation", "topk") != "topk":
        raise cannot_read(path, "the activation is", config["activation"], ("topk",))
    if skip and not transcoder:
        raise CheckpointError(
            f"{path} gives an autoencoder a skip connection, which cannot be read. Give a transcoder."
        )
    d_in = positive_int(path, config, "d_in")
    expanded = d_in * positive_int(path, config, "expansion_factor", default=32)
    d_sae = positive_int(path, config, "num_latents") if config.get("num_latents") else expanded
    sae_config = TopKConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_in if transcoder else None,
        skip=skip,
        k=whole_k(path, config, d_sae, default=32),
    )
    names = {**NAMES, "W_skip": "W_skip.T"} if skip else NAMES
    weights = select_weights(folder / WEIGHTS, read_safetensors(folder / WEIGHTS), names, sae_config)
    metadata = subdict(config, "metadata") or _metadata(folder, transcoder, notes)
    sae = build(folder / WEIGHTS, TopK, sae_config, weights, metadata)
    return Checkpoint(sae, FORMAT.name, ["The encoder was transposed.", *notes])


def _metadata(folder: Path, transcoder: bool, notes: list[str]) -> dict[str, Any]:
    """Return the metadata in the folder's name and the run's config."""
    run: Config = read_json(folder / RUN) if (folder / RUN).is_file() else {}
    notes.extend(RUN_FIELDS.check(folder / RUN, run))
    ends = _ends(folder.absolute().name)
    hooks = {"hook_name": ends[0], "hook_name_out": ends[1]} if transcoder else {"hook_name": ends[1]}
    model_options = {"revision": run["revision"]} if run.get("revision") else None  # under SAELens' name
    return drop_none(
        model_name=run.get("model"),
        **hooks,
        context_size=run.get("ctx_len"),
        model_from_pretrained_kwargs=model_options,
    )


def _ends(module: str) -> tuple[str, str]:
    """Return the hook points of a module's input and output.

    `layers.3.mlp` -> `blocks.3.mlp.hook_in`, `blocks.3.mlp.hook_out`. A module of another kind keeps its name.
    """
    place = re.fullmatch(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.?(mlp|attn|self_attn|attention|)", module)
    if place is None:
        return module, module
    into, out = POINTS["attention" if "att" in place[2] else place[2]]
    return f"blocks.{place[1]}.{into}", f"blocks.{place[1]}.{out}"


def write(sae: SAE, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write a TopK autoencoder or transcoder so that sparsify can load it.

    Args:
        sae: in any form; `for_inference` is applied.
        folder: made if it is missing; sparsify names it after the module that is read, such as `layers.3`.
        metadata: as `sae_core.checkpoints.saelens.write` takes it; written along.

    Raises:
        CheckpointError: sparsify cannot say what the SAE does.
        ArtifactError: the disk is full.
    """
    architecture, sae = sae.architecture, sae.for_inference()
    if not isinstance(sae, TopK):
        raise CheckpointError(f"sparsify has only topk, not {architecture}. Export this one as saelens.")
    if sae.d_out != sae.d_in:
        raise CheckpointError(
            f"sparsify's transcoders have one width, not {sae.d_in} and {sae.d_out}. Export this one as saelens."
        )
    if sae.config.normalize_activations != "none":
        raise CheckpointError("sparsify cannot normalise each token's activations. Export this one as saelens.")
    tensors = {
        "encoder.weight": sae.W_enc.t(),
        "encoder.bias": encoder_bias(sae, centred=not sae.is_transcoder),
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.t()
    write_tensors(folder / WEIGHTS, tensors)
    config = {
        "activation": "topk",
        "d_in": sae.d_in,
        "num_latents": sae.d_sae,
        "k": sae.k,
        "transcode": sae.is_transcoder,
        "skip_connection": sae.config.skip,
        "metadata": dict(metadata),
    }
    write_json(folder / CONFIG, config)


FORMAT = Format("sparsify", WEIGHTS, read, config=CONFIG, mark="num_latents", extras=(RUN,), write=write)
