"""Load a model from a GGUF file, a folder in the `transformers` layout, or the hub."""

import io
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from interp_engine import load_model as load_engine
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from sae_core.devices import resolve_device
from sae_core.errors import ModelError, first_line
from sae_core.files import (
    exists_partly,
    expand_home,
    explain_full_disk,
    first_missing,
    make_folder,
    require_free_space,
    sha256_file,
    sha256_json,
)
from sae_core.locks import folder_lock, wait_silently
from sae_core.memory import without_garbage_collection
from sae_core.models.gguf_files import read_once
from sae_core.models.language_model import LanguageModel
from sae_core.models.served import ServedModel

Backend = Literal["eager", "vllm"]
"""What runs a model: `transformers` in this process, or vLLM in processes of its own."""

_LONGEST_NAME = 80
"""Characters: names of SAEs, and so of folders, begin with it."""
_reading = threading.Lock()
"""One model at a time: `from_pretrained` patches transformers' classes while it runs. Two threads that overlap would
leave the patch in place: tied weights of all later models stay without data."""
_WEIGHTS = ("config.json", "*.safetensors", "pytorch_model*.bin")
_TOKENIZER = ("*.json", "*.txt", "*.model")
_VLLM_SHARE = 0.5
"""Of a GPU's memory, for vLLM: weights and keys and values. The SAEs are on the same GPU."""
_VLLM_LONGEST = 8_192
"""Tokens: the longest text that vLLM is set up for, which has room for its keys and values and runs in one piece."""
_VLLM_WORKER = "sae_core.interventions.vllm_worker.SteeringWorker"


def load_model(
    source: str | Path,
    *,
    device: str = "auto",
    name: str | None = None,
    cache: Path | None = None,
    waiting: Callable[[str], None] = wait_silently,
    backend: Backend = "eager",
) -> LanguageModel:
    """Load a causal language model and its tokenizer.

    Weights are float32 on a CPU, and of the checkpoint's own type on a GPU; vLLM takes the checkpoint's own.

    Args:
        source: a GGUF file, a folder written by `save_pretrained`, or a hub id such as `HuggingFaceTB/SmolLM2-135M`.
        device: `auto` (CUDA if there is any, else the CPU), or a device of torch.
        name: slug of the model; by default made from `source`.
        cache: folder that keeps a GGUF file's weights as safetensors, so that they are dequantised only once. None
            dequantises each time. The hub has a cache of its own.
        waiting: called while another process dequantises the same file, as `FolderLock.acquire` does.
        backend: what runs the model. `vllm` gives a `ServedModel`, which refuses what needs gradients or modules; a
            GGUF file then needs a `cache`. `device` is where its activations go.

    Raises:
        ModelError: there is no such model, it cannot be downloaded, or it is of a kind that cannot be used.
        ArtifactError: the disk is too small for the dequantised weights.
    """
    resolved_device = resolve_device(device)
    path = expand_home(source)
    name = name or _slug(path)
    transformers_logging.disable_progress_bar()
    if backend == "vllm":
        return _load_served(source, path, resolved_device, name, cache, waiting)
    match _kind(source, path):
        case "gguf":
            return _load_gguf(path, resolved_device, name, cache, waiting)
        case "folder":
            return _load_folder(path, resolved_device, name, _weights_sha256(path), source=str(source))
        case _:
            return _load_from_hub(str(source), resolved_device, name)


def _kind(source: str | Path, path: Path) -> Literal["gguf", "folder", "hub"]:
    """Return where a model is.

    Raises:
        ModelError: nowhere.
    """
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is not a model. Give a GGUF file, a folder with a config.json, or a hub id.")
        return "gguf"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} holds no config.json. Give a folder written by save_pretrained, or a GGUF file.")
        return "folder"
    if path.is_absolute() or path.suffix.lower() == ".gguf" or not _is_hub_id(str(source)):
        raise ModelError(f"There is no model at {source}. Check the path, or give a hub id such as owner/name.")
    return "hub"


def _load_served(
    source: str | Path,
    path: Path,
    device: torch.device,
    name: str,
    cache: Path | None,
    waiting: Callable[[str], None],
) -> ServedModel:
    """Let vLLM load a model, in processes of its own."""
    folder, weights_sha256 = path, ""
    match _kind(source, path):
        case "gguf":
            if cache is None:
                raise ModelError(f"vLLM needs the weights of {path} as safetensors. Give a folder to keep them in.")
            weights_sha256 = sha256_file(path)
            folder, _ = _dequantised(path, weights_sha256, cache, waiting)
        case "hub":
            folder = _snapshot(str(source))
    with _explain_failure(str(source)):
        config = AutoConfig.from_pretrained(folder)
        dtype = str(config.get_text_config().dtype or torch.float32).removeprefix("torch.")
        longest = min(_VLLM_LONGEST, getattr(config.get_text_config(), "max_position_embeddings", _VLLM_LONGEST))
        engine = load_engine(
            str(folder),
            backend="vllm",
            dtype=dtype,
            trust_remote_code=False,
            gpu_memory_utilization=_VLLM_SHARE,
            max_model_len=longest,
            extra_vllm_kwargs={
                "worker_extension_cls": _VLLM_WORKER,
                "max_num_seqs": 1,
                "max_num_batched_tokens": longest,  # a text in pieces would be changed in its first one alone
            },
        )
        return ServedModel(
            engine,
            config=config,
            generation_config=_generation_config(folder, config),
            name=name,
            source=str(source),
            weights_sha256=weights_sha256 or _weights_sha256(folder),
            device=device,
            dtype=dtype,
            longest=longest,
            nbytes=vllm_bytes(sum(file.stat().st_size for file in folder.glob("*.safetensors"))),
        )


def _generation_config(folder: Path, config: Any) -> GenerationConfig:
    """Return what `AutoModelForCausalLM` would give its model."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


def _snapshot(hub_id: str) -> Path:
    """Return the folder of the hub's cache that holds a model; it is downloaded only if the cache has no weights."""
    with _explain_failure(hub_id):
        try:
            folder = Path(snapshot_download(hub_id, allow_patterns=[*_WEIGHTS, *_TOKENIZER], local_files_only=True))
            if any(file for pattern in _WEIGHTS[1:] for file in folder.glob(pattern)):
                return folder
        except OSError:
            pass
        return Path(snapshot_download(hub_id, allow_patterns=[*_WEIGHTS, *_TOKENIZER]))


def vllm_bytes(weights: int) -> int:
    """Return the memory of the first GPU that vLLM takes, whatever the model is; that of its weights without a GPU."""
    if torch.cuda.is_available():
        return int(_VLLM_SHARE * torch.cuda.get_device_properties(0).total_memory)
    return weights


def _load_from_hub(hub_id: str, device: torch.device, name: str) -> LanguageModel:
    """Load a model from the hub's cache, and from the hub only if the cache lacks a file.

    So a model that was downloaded once needs no network, and stays the same until that cache is cleared.
    """
    with _explain_failure(hub_id):
        try:
            with without_garbage_collection():
                hf_model, tokenizer = _read(hub_id, device, local_files_only=True)
        except OSError:
            hf_hub_download(hub_id, "config.json")  # without a network this fails once, and not once for each file
            hf_model, tokenizer = _read(hub_id, device)
    snapshot = Path(str(try_to_load_from_cache(hub_id, "config.json"))).parent
    return LanguageModel(
        hf_model=hf_model, tokenizer=tokenizer, name=name, source=hub_id, weights_sha256=_weights_sha256(snapshot)
    )


@without_garbage_collection()
def _load_folder(
    folder: Path, device: torch.device, name: str, weights_sha256: str, *, source: str, hf_model: Any = None
) -> LanguageModel:
    """Load the model in `folder`, unless it is in memory as `hf_model`; `source` is the user's name for it."""
    with _explain_failure(source):
        tokenizer = _read_tokenizer(str(folder))
        hf_model = _read_weights(str(folder), device) if hf_model is None else _for_inference(hf_model, device)
    return LanguageModel(
        hf_model=hf_model, tokenizer=tokenizer, name=name, source=source, weights_sha256=weights_sha256
    )


def _read(place: str, device: torch.device, *, local_files_only: bool = False) -> tuple[Any, Any]:
    """Return the `transformers` model and tokenizer at a folder or hub id."""
    tokenizer = _read_tokenizer(place, local_files_only=local_files_only)
    return _read_weights(place, device, local_files_only=local_files_only), tokenizer


def _read_tokenizer(place: str, *, local_files_only: bool = False) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local_files_only)
    if not tokenizer.is_fast:
        raise ModelError(f"{place} has no fast tokenizer (tokenizer.json). Choose another model.")
    return tokenizer


def _read_weights(place: str, device: torch.device, *, local_files_only: bool = False) -> Any:
    dtype = torch.float32 if device.type == "cpu" else "auto"
    with _reading:
        hf_model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, local_files_only=local_files_only)
    return _for_inference(hf_model, device)


def _for_inference(hf_model: Any, device: torch.device) -> Any:
    return hf_model.to(device).requires_grad_(False)


def _load_gguf(
    file: Path, device: torch.device, name: str, cache: Path | None, waiting: Callable[[str], None]
) -> LanguageModel:
    sha256 = sha256_file(file)
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="seesae-") as temporary:
            _dequantise(file, Path(temporary))
            return _load_folder(Path(temporary), device, name, sha256, source=str(file))
    folder, hf_model = _dequantised(file, sha256, cache, waiting)
    return _load_folder(folder, device, name, sha256, source=str(file), hf_model=hf_model)


def _dequantised(file: Path, sha256: str, cache: Path, waiting: Callable[[str], None]) -> tuple[Path, Any]:
    """Return the folder of a GGUF file's weights, and the model if it was made just now."""
    folder = cache / f"{_slug(file)}-{sha256[:16]}"
    made: list[Any] = []
    if not folder.is_dir():
        with folder_lock(folder, waiting=waiting):
            if not folder.is_dir():
                make_folder(folder, lambda partial: made.append(_dequantise(file, partial)))
    return folder, made[0] if made else None


@without_garbage_collection()
def _dequantise(file: Path, folder: Path) -> Any:
    """Write a GGUF file's model and tokenizer to `folder`, as float32 safetensors, and return the model."""
    # Its progress bar cannot be turned off by transformers' own switch.
    with _explain_failure(str(file)), redirect_stderr(io.StringIO()), _reading, read_once():
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
    require_free_space(folder.parent, 4 * model.num_parameters(), f"Dequantising {file.name}")
    # The weights are plain floats now, but save_pretrained refuses any model that still says how it was quantised.
    model.hf_quantizer = None
    del model.config.quantization_config
    with explain_full_disk(folder.parent):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model


@contextmanager
def _explain_failure(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError) as error:
        raise ModelError(
            f"{source} cannot be loaded: {first_line(error)}. "
            f"{_missing(source)}Check the name and the network, "
            "or give a local folder or GGUF file of a causal language model."
        ) from error


def _missing(source: str) -> str:
    """A sentence that is the likelier reason where a name on the hub begins as a folder does that is here."""
    if Path(source).exists() or not exists_partly(source):
        return ""
    parent, name = first_missing(Path(source))
    return f"As a path it does not exist either: {parent} holds no {name}. "


def _weights_sha256(folder: Path) -> str:
    files = sorted({file for pattern in _WEIGHTS for file in folder.glob(pattern)})
    return sha256_json({file.name: sha256_file(file) for file in files})


def _is_hub_id(source: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) is not None


def _slug(path: Path) -> str:
    """`SmolLM2-135M.Q4_1.gguf` -> `smollm2-135m-q4-1`."""
    stem = path.stem if path.suffix.lower() == ".gguf" else path.name
    return re.sub(r"[^a-z0-9]+", "-", stem.lower())[:_LONGEST_NAME].strip("-") or "model"
