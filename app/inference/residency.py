"""Models, SAEs, activation stores and distributions in memory: the few of each that were used last."""

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

import structlog
import torch

from app.artifacts import Artifacts, store_key
from app.errors import Unavailable
from app.inference.ranking import ActivationDistributions
from app.queries.models import ModelInfo
from app.queries.saes import IndexInfo, SaeDetail
from app.settings import Settings
from sae_core.checkpoints import load_sae
from sae_core.models import LanguageModel, load_model
from sae_core.saes import SAE
from sae_core.store.activation_store import ActivationStore

log = structlog.get_logger("inference")

_MODELS = 2
_SAES = 4
_STORES = 16
"""Open activation stores; each holds one count per feature."""
_DISTRIBUTIONS = 8
"""Indexes whose distributions are kept; each takes 0.4 kB per feature."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """At most `size` values; the least recently used one is evicted first. Not thread-safe."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, load: Callable[[], Value]) -> Value:
        """Return the value of `key`, loading it if it is absent; eviction comes first, because memory is scarce."""
        if key not in self._values:
            while len(self._values) >= self.size:
                self._values.popitem(last=False)
            self._values[key] = load()
        self._values.move_to_end(key)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def clear(self) -> None:
        """Evict everything."""
        self._values.clear()


class Residency:
    """Caches of the inference process. A key holds everything that its value depends on.

    `model`, `sae`, `free_memory` and `distributions` are for whoever holds the one turn; `store` is for any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._artifacts = Artifacts(settings.artifacts)
        self._models: LRUCache[tuple[str, str, str], LanguageModel] = LRUCache(_MODELS)
        self._saes: LRUCache[tuple[str, str, int], SAE] = LRUCache(_SAES)
        self._stores: LRUCache[tuple[Path, int], ActivationStore] = LRUCache(_STORES)
        self._stores_lock = threading.Lock()
        self._opening: dict[tuple[Path, int], threading.Lock] = {}
        self._distributions: LRUCache[int, ActivationDistributions] = LRUCache(_DISTRIBUTIONS)

    def model(self, info: ModelInfo) -> LanguageModel:
        """Return the model and tokenizer that `info` describes.

        Raises:
            Unavailable: the files at its source have changed.
            SAEError: it cannot be loaded.
        """
        return self._models.get(_model_key(info), lambda: self._load_model(info))

    def has_model(self, info: ModelInfo) -> bool:
        """True if the model is in memory."""
        return _model_key(info) in self._models

    def has_sae(self, detail: SaeDetail) -> bool:
        """True if the SAE is in memory."""
        return self._sae_key(detail) in self._saes

    def sae(self, detail: SaeDetail, device: torch.device) -> SAE:
        """Return the SAE that `detail` describes.

        Raises:
            SAEError: it cannot be loaded.
        """
        return self._saes.get(self._sae_key(detail), lambda: self._load_sae(detail, device))

    def store(self, detail: SaeDetail, index: IndexInfo) -> ActivationStore:
        """Return the activation store of `index`, which belongs to `detail`.

        Raises:
            ArtifactError, OSError: its files are missing or incomplete.
        """
        folder = self._artifacts.index(store_key(detail, index.sequence_set.sha256))
        key = folder, _modified(folder)
        with self._stores_lock:
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:  # opening reads every byte: other stores do not wait for it
            with self._stores_lock:
                if key in self._stores:
                    return self._stores.get(key, lambda: ActivationStore.open(folder))
            store = ActivationStore.open(folder)
            with self._stores_lock:
                self._opening.pop(key, None)
                return self._stores.get(key, lambda: store)

    def distributions(self, index: IndexInfo, d_sae: int) -> ActivationDistributions:
        """Return the distributions of `index`, empty at first; the caller adds the features that it needs."""
        return self._distributions.get(index.id, lambda: ActivationDistributions(d_sae, index.tokens))

    def free_memory(self) -> None:
        """Drop models and SAEs and return their memory to the device."""
        self._models.clear()
        self._saes.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _sae_key(self, detail: SaeDetail) -> tuple[str, str, int]:
        # The hash leaves out the config, which lies in the folder.
        return detail.weights_sha256, detail.artifact, _modified(self._artifacts.root / detail.artifact)

    def _load_model(self, info: ModelInfo) -> LanguageModel:
        model = load_model(info.source, device=self._settings.device, name=info.name, cache=self._artifacts.models)
        if (model.weights_sha256, model.tokenizer_sha256) != (info.weights_sha256, info.tokenizer_sha256):
            log.warning("model_changed", model=info.name, source=info.source)
            raise Unavailable(
                f"The files of {info.name} are not those that this SAE was trained on: the model's weights or its "
                "tokenizer changed. Put the former files back, or train and index again."
            )
        return model

    def _load_sae(self, detail: SaeDetail, device: torch.device) -> SAE:
        return load_sae(self._artifacts.root / detail.artifact).to(device).eval()


def _model_key(info: ModelInfo) -> tuple[str, str, str]:
    """Return what a loaded model depends on; the source also has what the hashes leave out, such as special tokens."""
    return info.weights_sha256, info.tokenizer_sha256, info.source


def _modified(folder: Path) -> int:
    """Return when entries of the folder changed: it may have been made again. 0 where there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
