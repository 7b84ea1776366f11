"""Works of runs that several workers share: what is said of them to a worker, and how it opens them.

A worker makes the same bytes only by the same code, on a device of the same kind; else it does not help.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.errors import Conflict
from app.pipeline.sources import read_model
from app.queries.saes import SaeDetail
from app.runs.job_context import JobContext
from app.runs.sharing import Work, register_work
from sae_core.activations import ActivationCache
from sae_core.activations.cache import CacheShards
from sae_core.checkpoints import load_sae
from sae_core.corpora import Sequences
from sae_core.files import sha256_code
from sae_core.models import HookPoint, LanguageModel
from sae_core.shards import ShardWork
from sae_core.statistics.ranges import RangeShards
from sae_core.store.activation_store import ActivationStore, StoreShards


def forward_work(
    model: LanguageModel,
    source: str,
    points: Sequence[tuple[HookPoint, HookPoint | None]],
    sequences: Path,
    caches: Sequence[Path],
) -> Work:
    """Describe the pass of a model, which is loaded from `source`, over sequences; `caches` are its activations'."""
    return {
        "kind": "forward",
        "model": source,
        "identity": _identity(model),
        "points": [[str(hook), None if target is None else str(target)] for hook, target in points],
        "caches": [folder.name for folder in caches],
        **_shared_inputs(sequences),
    }


def encode_work(sae: SaeDetail, cache: Path, sequences: Path, store: Path) -> Work:
    """Describe the making of an activation store from a cache of activations."""
    folders = {"sae": sae.artifact, "cache": cache.name, "store": store.name}
    return {"kind": "encode", **folders, **_shared_inputs(sequences)}


def statistics_work(store: Path, sequences: Path) -> Work:
    """Describe the statistics of ranges of features of an activation store."""
    return {"kind": "statistics", "store": store.name, **_shared_inputs(sequences)}


def _shared_inputs(sequences: Path) -> dict[str, Any]:
    return {"sequences": sequences.name, "code": sha256_code()}


def _identity(model: LanguageModel) -> dict[str, str]:
    """Return what the bytes of a model's activations depend on."""
    return {
        "weights": model.weights_sha256,
        "tokenizer": model.tokenizer_sha256,
        "dtype": model.dtype,
        "device": model.device.type,
    }


def open_forward(ctx: JobContext, work: Work) -> ShardWork:
    """Load the model of a `forward_work`.

    Raises:
        Conflict: this worker would write other bytes, or does not see the files.
        ModelError: the model cannot be loaded.
    """
    sequences = _sequences(ctx, work)
    model = read_model(
        work["model"],
        device=ctx.settings.device,
        cache=ctx.settings.home / "cache",
        converted=ctx.artifacts.models,
    )
    if _identity(model) != work["identity"]:
        raise Conflict("The model is another here, or runs on another kind of device than where the run was begun.")
    points = [
        (HookPoint.parse(hook), None if target is None else HookPoint.parse(target)) for hook, target in work["points"]
    ]
    return CacheShards(model, points, sequences, [ctx.artifacts.activations(name) for name in work["caches"]])


def open_encode(ctx: JobContext, work: Work) -> ShardWork:
    """Load the SAE of an `encode_work`.

    Raises:
        Conflict: this worker would write other bytes, or does not see the files.
        SAEError: they cannot be read.
    """
    sequences = _sequences(ctx, work)
    artifacts = ctx.artifacts
    cache = ActivationCache.open(artifacts.pull(artifacts.activations(work["cache"])), sequences)
    sae = load_sae(artifacts.pull(artifacts.root / work["sae"]))
    return StoreShards(sae, cache, sequences, artifacts.index(work["store"]))


def open_statistics(ctx: JobContext, work: Work) -> ShardWork:
    """Open the store of a `statistics_work`.

    Raises:
        Conflict: this worker would write other bytes, or does not see the files.
        SAEError: they cannot be read.
    """
    sequences = _sequences(ctx, work)
    store = ctx.artifacts.pull(ctx.artifacts.index(work["store"]))
    return RangeShards.join(ActivationStore.open(store), sequences)


def _sequences(ctx: JobContext, work: Work) -> Sequences:
    """Return the sequences of a work, if this worker makes the same of them.

    Raises:
        Conflict: it has other code, or does not see the files.
    """
    if work["code"] != sha256_code():
        raise Conflict("This worker has another version of SeeSAE than the one that does the run.")
    folder = ctx.artifacts.pull(ctx.artifacts.sequences(work["sequences"]))
    if not folder.is_dir():
        raise Conflict(f"{folder} is not there. Give all workers the same SEESAE_ARTIFACTS.")
    return Sequences.load(folder)


for kind, opener in {"forward": open_forward, "encode": open_encode, "statistics": open_statistics}.items():
    register_work(kind, opener)
