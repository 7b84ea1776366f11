"""The model and the SAE behind a probe: loaded once, then run on one text at a time."""

import gc
import threading

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.errors import TooLarge, Unavailable
from app.inference.cache import RecentlyUsed
from app.jobs.artifacts import Artifacts
from app.queries.models import ModelInfo
from app.queries.saes import SaeDetail
from app.services.inference import FiringFeature, ProbeAnswer
from app.settings import Settings
from sae_core.errors import SAEError
from sae_core.models import HookPoint, LanguageModel, load_model
from sae_core.saes import SAE

_MODELS = 2
_SAES = 4
_BLOCK = 128
"""Tokens encoded at a time: dense activations of 128 tokens and 65,536 features are 32 MB."""


class ProbeEngine:
    """Holds models and SAEs. `probe` may be called from any thread; calls take turns, the processor is one anyway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn = threading.Lock()
        self._models: RecentlyUsed[str, LanguageModel] = RecentlyUsed(_MODELS)
        self._saes: RecentlyUsed[str, SAE] = RecentlyUsed(_SAES)

    def probe(self, sae: SaeDetail, text: str) -> ProbeAnswer:
        """Activations of all features of `sae` on `text`.

        BOS and special tokens come back as not counted and without activations: models put a huge vector on BOS that
        means nothing, and the index leaves them out too.

        Raises:
            TooLarge: the text is longer than the limit, or than the model reads.
            Unavailable: the model or the SAE cannot be loaded, or there is not enough memory.
        """
        with self._turn:
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

    def _probe(self, sae: SaeDetail, text: str) -> ProbeAnswer:
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
        return SAE.load(self._settings.artifacts / sae.artifact).to(device).eval()

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


def _run(model: LanguageModel, sae: SAE, hook: HookPoint, token_ids: list[int]) -> ProbeAnswer:
    ids: Int[Tensor, "1 position"] = torch.tensor([token_ids])
    activations: Float[Tensor, "position d_in"] = model.activations(ids, hook)[0]
    uncounted = model.special_token_ids | {model.bos_token_id}
    counted = [token_id not in uncounted for token_id in token_ids]
    mask = torch.tensor(counted, device=activations.device)
    firing: list[Int[Tensor, "firing 2"]] = []
    values: list[Float[Tensor, " firing"]] = []
    with torch.inference_mode():
        for start in range(0, len(token_ids), _BLOCK):
            f = sae.encode(activations[start : start + _BLOCK]) * mask[start : start + _BLOCK, None]
            found = f.nonzero()
            values.append(f[found[:, 0], found[:, 1]].cpu())
            found[:, 0] += start
            firing.append(found.cpu())
    return ProbeAnswer(token_ids=token_ids, counted=counted, features=_by_feature(torch.cat(firing), torch.cat(values)))


def _by_feature(firing: Int[Tensor, "firing 2"], values: Float[Tensor, " firing"]) -> list[FiringFeature]:
    """Group (position, feature) pairs, which come in order of position, by feature."""
    order = torch.argsort(firing[:, 1], stable=True)
    features, counts = torch.unique_consecutive(firing[order, 1], return_counts=True)
    sizes = counts.tolist()
    return [
        FiringFeature(index=index, positions=positions.tolist(), values=[_short(value) for value in found.tolist()])
        for index, positions, found in zip(
            features.tolist(), torch.split(firing[order, 0], sizes), torch.split(values[order], sizes), strict=True
        )
    ]


def _short(value: float) -> float:
    """A float32 in 7 digits, which is what it holds, instead of the 17 that its double would be written in."""
    return float(f"{value:.7g}")


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class for it; the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
