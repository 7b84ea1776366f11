"""The model and the SAE behind a probe: loaded once, then run on one text at a time."""

import gc
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from app.artifacts import Artifacts, content_key
from app.errors import TooLarge, Unavailable
from app.inference.example_sampler import ActivationRange, sample_examples
from app.inference.lru_cache import LRUCache
from app.queries.examples import StoredExample
from app.queries.models import ModelInfo
from app.queries.saes import SaeDetail
from app.settings import Settings
from sae_core.checkpoints import load_sae
from sae_core.errors import ArtifactError, SAEError
from sae_core.models import HookPoint, LanguageModel, load_model
from sae_core.saes import SAE
from sae_core.store.activation_store import ActivationStore

_MODELS = 2
_SAES = 4
_STORES = 16
"""Opened activation stores; each holds a count a feature."""
_BLOCK = 128
"""Tokens encoded at a time: dense activations of 128 tokens and 65,536 features are 32 MB."""


@dataclass(frozen=True)
class SparseActivations:
    """What is active on a text: columns of equal length, by feature and then by position."""

    token_ids: list[int]
    counted: list[bool]
    """False for BOS and special tokens: no feature is looked for on them."""
    features: Int64[np.ndarray, " active"]
    positions: Int64[np.ndarray, " active"]
    activations: Float64[np.ndarray, " active"]

    def max_per_feature(self) -> tuple[Int64[np.ndarray, " feature"], Float64[np.ndarray, " feature"]]:
        """Every feature that is active, ascending, and its strongest activation."""
        numbers, first = np.unique(self.features, return_index=True)
        return numbers, np.maximum.reduceat(self.activations, first) if len(first) else self.activations


class ProbeEngine:
    """Holds models and SAEs. `probe` may be called from any thread; calls take turns, the processor is one anyway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._models: LRUCache[str, LanguageModel] = LRUCache(_MODELS)
        self._saes: LRUCache[str, SAE] = LRUCache(_SAES)
        self._stores: LRUCache[tuple[Path, int], ActivationStore] = LRUCache(_STORES)
        self._stores_lock = threading.Lock()

    def probe(self, sae: SaeDetail, text: str) -> SparseActivations:
        """Activations of all features of `sae` on `text`.

        BOS and special tokens come back as not counted and without activations: models put a huge vector on BOS that
        means nothing, and the index leaves them out too.

        Raises:
            TooLarge: the text is longer than the limit, or than the model reads.
            Unavailable: the model or the SAE cannot be loaded, or there is not enough memory.
        """
        with self._lock:
            try:
                return self._probe(sae, text)
            except SAEError as error:
                raise Unavailable(f"{sae.slug} cannot be probed: {error}") from error
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
            # Only now, out of the handler: a traceback holds on to the tensors of its frames.
            self._free_memory()
            raise Unavailable(
                "There is not enough memory for this probe. Try a shorter text; if that fails too, run the inference "
                "process on a machine with more memory, or on the CPU with SEESAE_DEVICE=cpu."
            )

    def sample_examples(
        self, sae: SaeDetail, wanted: ActivationRange, *, limit: int, seed: int
    ) -> tuple[int, list[StoredExample]]:
        """As `app.inference.example_sampler.sample_examples`, from the store of the SAE's index.

        Raises:
            Unavailable: its files are not there, or not whole.
        """
        assert sae.index is not None
        sequences = sae.index.sequence_set
        folder = Artifacts(self._settings.artifacts).index(
            content_key(sae=sae.weights_sha256, sequences=sequences.sha256)
        )
        try:
            with self._stores_lock:
                opened = folder, folder.stat().st_mtime_ns  # gone, or made again since
                store = self._stores.get(opened, lambda: ActivationStore.open(folder))
            return sample_examples(store, wanted, length=sequences.length, limit=limit, seed=seed)
        except (ArtifactError, OSError) as error:
            raise Unavailable(
                f"The activations that {sae.slug}'s index was made from are no longer on disk, so nothing can be drawn "
                f"from them; what the index keeps is still shown. seesae index {sae.slug} --corpus CORPUS makes them "
                "again."
            ) from error

    def _probe(self, sae: SaeDetail, text: str) -> SparseActivations:
        model = self._models.get(sae.model.weights_sha256, lambda: self._load_model(sae.model))
        dictionary = self._saes.get(sae.weights_sha256, lambda: self._load_sae(sae, model.device))
        return _run(model, dictionary, HookPoint.parse(sae.hook), self._tokenize(model, text))

    def _load_model(self, info: ModelInfo) -> LanguageModel:
        cache = Artifacts(self._settings.artifacts).models
        model = load_model(info.source, device=self._settings.device, name=info.name, cache=cache)
        if (model.weights_sha256, model.tokenizer_sha256) != (info.weights_sha256, info.tokenizer_sha256):
            raise Unavailable(
                f"The model at {info.source} is not the {info.name} that this SAE was trained on: its weights or its "
                "tokenizer changed. Put the former files back, or train and index again."
            )
        return model

    def _load_sae(self, sae: SaeDetail, device: torch.device) -> SAE:
        return load_sae(self._settings.artifacts / sae.artifact).to(device).eval()

    def _tokenize(self, model: LanguageModel, text: str) -> list[int]:
        token_ids = model.tokenize(text)
        limit = min(self._settings.probe_max_tokens, (model.context_length or self._settings.probe_max_tokens + 1) - 1)
        tokens = len(token_ids) - (token_ids[:1] == [model.bos_token_id])
        if tokens > limit:
            raise TooLarge(f"The text has {tokens:,} tokens; at most {limit:,} can be probed at once. Shorten it.")
        return token_ids

    def _free_memory(self) -> None:
        self._models.clear()
        self._saes.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.inference_mode()
def _run(model: LanguageModel, sae: SAE, hook: HookPoint, token_ids: list[int]) -> SparseActivations:
    ids: Int[Tensor, "1 position"] = torch.tensor([token_ids])
    x: Float[Tensor, "position d_in"] = model.activations(ids, hook)[0]
    uncounted = model.special_token_ids | {model.bos_token_id}
    counted = np.array([token_id not in uncounted for token_id in token_ids])
    features, positions, activations = [], [], []
    for start in range(0, len(token_ids), _BLOCK):
        active, values = sae.encode_sparse(x[start : start + _BLOCK])
        features.append(active.features.cpu().numpy())
        positions.append(active.rows.cpu().numpy() + start)
        activations.append(values.float().cpu().numpy())
    feature, position, activation = (np.concatenate(parts) for parts in (features, positions, activations))
    order = np.lexsort((position, feature))
    order = order[counted[position[order]]]
    return SparseActivations(
        token_ids, counted.tolist(), feature[order], position[order], _seven_digits(activation[order])
    )


def _seven_digits(values: Float[np.ndarray, " value"]) -> Float64[np.ndarray, " value"]:
    """Float32 in 7 digits, which is what it holds, instead of the 17 that its doubles would be written in."""
    return np.array([float(f"{value:.7g}") for value in values.tolist()])


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class for it; the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
