"""Models and SAEs in memory, up to a number of bytes, and the activation stores and distributions used last."""

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
import structlog
import torch
from torch import nn

from app.artifacts import Artifacts, store_key
from app.errors import TooLarge, Unavailable
from app.inference.ranking import ActivationDistributions
from app.queries.saes import IndexInfo, SaeDetail
from app.services.inference_messages import IndexRef, ModelRef, SaeRef
from app.settings import Settings
from sae_core.checkpoints import load_sae
from sae_core.devices import resolve_device
from sae_core.errors import ModelError
from sae_core.models import LanguageModel, ServedModel, load_model
from sae_core.models.loading import Backend, vllm_bytes
from sae_core.saes import SAE
from sae_core.store.activation_store import ActivationStore

log = structlog.get_logger("inference")

_SHARE = 0.8
"""Of the memory that is free at the start, the part that models, SAEs and probes may use."""
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


@dataclass(slots=True)
class _Resident:
    """A model or an SAE in memory, which `users` requests use right now."""

    module: Any
    nbytes: int
    users: int = 0


class ResidentModules:
    """Models and SAEs up to `limit` bytes; the least recently used one is evicted first, one in use never.

    Not thread-safe.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.loads = 0
        """Number of modules loaded so far."""
        self._kept: OrderedDict[Hashable, _Resident] = OrderedDict()
        self._reserved = 0

    @property
    def nbytes(self) -> int:
        """Bytes in memory, and those that are reserved."""
        return self._reserved + sum(resident.nbytes for resident in self._kept.values())

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    @contextmanager
    def use(self, key: Hashable, estimate: int, load: Callable[[], Any]) -> Iterator[Any]:
        """Yield the module of `key`, which stays in memory meanwhile.

        Args:
            key: everything that it depends on.
            estimate: bytes that it takes, as far as is known before it is loaded.
            load: makes it, if it is absent.

        Raises:
            TooLarge: there is not that much memory.
        """
        if key not in self._kept:
            self.make_room(estimate)
            module = load()
            self._kept[key] = _Resident(module, _nbytes(module))
            self.loads += 1
        resident = self._kept[key]
        self._kept.move_to_end(key)
        resident.users += 1
        try:
            if self.nbytes > self.limit:  # it is larger than its estimate
                self.make_room(0)
            yield resident.module
        finally:
            resident.users -= 1
            if getattr(resident.module, "failed", False) and not resident.users and key in self._kept:
                self._evict(key)  # the next request loads it again

    @contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Make room for work that gives its turn to others in between, and keep it until the body ends.

        Raises:
            TooLarge, Unavailable: as `make_room`.
        """
        self.make_room(nbytes)
        self._reserved += nbytes
        try:
            yield
        finally:
            self._reserved -= nbytes

    def make_room(self, nbytes: int) -> None:
        """Evict until this many bytes are free within the limit.

        Raises:
            TooLarge: what is in use leaves less than that; nothing was evicted.
            Unavailable: it does only because of what others have reserved.
        """
        in_use = sum(resident.nbytes for resident in self._kept.values() if resident.users)
        if nbytes and in_use + nbytes <= self.limit < in_use + nbytes + self._reserved:
            raise Unavailable("The texts that are being written right now take all memory. Try again in a moment.")
        if in_use + nbytes > self.limit and nbytes:
            raise TooLarge(
                f"This needs about {(in_use + nbytes) / 1e9:.1f} GB of memory, and the inference process may use "
                f"{self.limit / 1e9:.1f} GB. Try a shorter text; if that fails too, give it more memory "
                "(SEESAE_INFERENCE_MEMORY), or a smaller model or SAE."
            )
        for key in [key for key, resident in self._kept.items() if not resident.users]:
            if self.nbytes + nbytes <= self.limit:
                return
            self._evict(key)

    def clear(self) -> None:
        """Evict everything that is not in use."""
        for key in [key for key, resident in self._kept.items() if not resident.users]:
            self._evict(key)

    def _evict(self, key: Hashable) -> None:
        _close(self._kept.pop(key).module)


class Residency:
    """Caches of the inference process. A key holds everything that its value depends on.

    `use`, `modules`, `free_memory` and `distributions` are for whoever holds the one turn; `store` is for any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._artifacts = Artifacts.of(settings)
        self.modules = ResidentModules(_memory_limit(settings))
        self._stores: LRUCache[tuple[Path, int], ActivationStore] = LRUCache(_STORES)
        self._stores_lock = threading.Lock()
        self._opening: dict[tuple[Path, int], threading.Lock] = {}
        self._distributions: LRUCache[int, ActivationDistributions] = LRUCache(_DISTRIBUTIONS)

    def has_model(self, ref: ModelRef) -> bool:
        """True if the model is in memory."""
        return _model_key(ref) in self.modules

    def has_sae(self, ref: SaeRef) -> bool:
        """True if the SAE is in memory."""
        return self._sae_key(ref) in self.modules

    @property
    def backend(self) -> Backend:
        """The back end that runs the models."""
        return self._settings.backend

    def use_model(self, ref: ModelRef) -> AbstractContextManager[LanguageModel]:
        """Yield a model, which stays in memory meanwhile; raises as `use`."""
        return self.modules.use(_model_key(ref), self._model_bytes(ref), lambda: self._load_model(ref))

    def _model_bytes(self, ref: ModelRef) -> int:
        """Estimate a model's memory, on the low side: its parameters, two bytes each; many have more.

        vLLM takes a share of the GPU whatever the model is.
        """
        weights = 2 * (10 * ref.n_layers * ref.d_model**2 + ref.vocab_size * ref.d_model)
        return vllm_bytes(weights) if self.backend == "vllm" else weights

    @contextmanager
    def use(self, ref: SaeRef) -> Iterator[tuple[LanguageModel, SAE]]:
        """Yield model and SAE, which stay in memory meanwhile.

        Raises:
            TooLarge: they need more memory than there is.
            Unavailable: the files at the model's source have changed, or the object store is away.
            SAEError: one of them cannot be loaded.
        """
        if not self.has_sae(ref):
            self._artifacts.pull(self._artifacts.root / ref.artifact)
        with (
            self.use_model(ref.model) as model,
            self.modules.use(self._sae_key(ref), _sae_bytes(ref), lambda: self._load_sae(ref, model.device)) as sae,
        ):
            yield model, sae

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
            opened = folder, _modified(folder)  # perhaps by whom this waited for
            with self._stores_lock:
                if opened in self._stores:
                    return self._stores.get(opened, lambda: ActivationStore.open(folder))
            store = ActivationStore.open(self._artifacts.pull(folder))
            with self._stores_lock:
                self._opening.pop(key, None)
                return self._stores.get((folder, _modified(folder)), lambda: store)

    def distributions(self, index: IndexRef, d_sae: int) -> ActivationDistributions:
        """Return the distributions of `index`, empty at first; the caller adds the features that it needs."""
        return self._distributions.get(index.id, lambda: ActivationDistributions(d_sae, index.tokens))

    def free_memory(self) -> None:
        """Drop models and SAEs that no request uses, and return their memory to the device."""
        self.modules.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _sae_key(self, ref: SaeRef) -> Hashable:
        # The hash leaves out the config, which lies in the folder.
        return ref.weights_sha256, ref.artifact, _modified(self._artifacts.root / ref.artifact)

    def _load_model(self, ref: ModelRef) -> LanguageModel:
        model = load_model(
            ref.source,
            device=self._settings.device,
            name=ref.name,
            cache=self._artifacts.models,
            backend=self.backend,
        )
        if (model.weights_sha256, model.tokenizer_sha256) != (ref.weights_sha256, ref.tokenizer_sha256):
            _close(model)
            log.warning("model_changed", model=ref.name, source=ref.source)
            raise Unavailable(
                f"The files of {ref.name} are not those that this SAE was trained on: the model's weights or its "
                "tokenizer changed. Put the former files back, or train and index again."
            )
        return model

    def _load_sae(self, ref: SaeRef, device: torch.device) -> SAE:
        return load_sae(self._artifacts.root / ref.artifact).to(device).eval()


def _memory_limit(settings: Settings) -> int:
    """Return the setting, or a share of what is free on the device now, in bytes."""
    if settings.inference_memory is not None:
        return int(settings.inference_memory * 1e9)
    with suppress(ModelError):  # no such device: the first load says so
        device = resolve_device(settings.device)
        if device.type == "cuda":
            return int(_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(_SHARE * psutil.virtual_memory().available)


def _model_key(ref: ModelRef) -> Hashable:
    """Return what a loaded model depends on; the source also has what the hashes leave out, such as special tokens."""
    return ref.weights_sha256, ref.tokenizer_sha256, ref.source


def _sae_bytes(ref: SaeRef) -> int:
    """Return the memory of an encoder and a decoder in float32."""
    return 8 * ref.d_in * ref.d_sae


def _close(module: Any) -> None:
    """End the processes of a model that runs in some."""
    if isinstance(module, ServedModel):
        module.close()


def _nbytes(module: LanguageModel | nn.Module) -> int:
    """Return the memory of all parameters and buffers, tied ones once; of a model in processes, what they take."""
    if isinstance(module, ServedModel):
        return module.nbytes
    inner: nn.Module = module.hf_model if isinstance(module, LanguageModel) else module
    return sum({t.data_ptr(): t.nbytes for t in (*inner.parameters(), *inner.buffers())}.values())


def _modified(folder: Path) -> int:
    """Return when entries of the folder changed: it may have been made again. 0 where there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
