"""The stages that runs are made of. Each finds what an earlier attempt left, and makes only the rest.

The model runs over the corpus once: the activations that an SAE is trained on stay on disk, and encoding reads them
again. So a demo costs one forward pass, and an index of the SAE on its own corpus costs no further one.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from app.errors import Conflict, NotFound
from app.jobs.artifacts import content_key
from app.jobs.context import RunContext
from app.jobs.material import Material
from app.jobs.params import CorpusParams
from app.jobs.registration import publish, register_trained
from app.jobs.sources import fetch_packages, read_corpus, read_model
from app.jobs.workshop import Workshop
from app.queries import runs, saes
from app.queries.saes import SaeDetail
from sae_core.activations import ActivationCache
from sae_core.corpora import Corpus, Sequences, pack
from sae_core.evaluation import Evaluation, evaluate
from sae_core.index.statistics import compute_statistics
from sae_core.index.store import build_store
from sae_core.index.types import FeatureStatistics
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress
from sae_core.saes import SAE
from sae_core.training import TrainingConfig, train

_WRITES_RESIDUAL = ("resid_", "attn_out", "mlp_out")
"""Hook points whose activations are vectors of the residual stream, which the unembedding reads."""

_SEED = 0
"""Of packing and of drawn examples: fixed, so that the same corpus and SAE always give the same index."""


async def prepare(run: RunContext, shop: Workshop, model: str, hook: HookPoint, params: CorpusParams) -> Material:
    """Fetch and load model and corpus, cut the corpus into sequences, and run the model over them."""
    cache = shop.settings.home / "cache"
    async with run.stage("fetch") as progress:
        await run.in_thread(fetch_packages, model, params.corpus, cache, progress)
    async with run.stage("load"):
        language_model = await run.in_thread(
            read_model, model, device=shop.settings.device, cache=cache, converted=shop.artifacts.models
        )
        language_model.d_in(hook)  # refuses a layer that the model lacks, before any work is done
        corpus = await run.in_thread(read_corpus, params.corpus, cache=cache)
    async with run.stage("tokenise") as progress:
        sequences = await run.in_thread(_sequences, shop, language_model, corpus, params, progress)
    async with run.stage("activations") as progress:
        key = content_key(model=language_model.weights_sha256, hook=str(hook), sequences=sequences.sha256)
        folder = shop.artifacts.activations(key)
        activations = await run.in_thread(
            ActivationCache.build, language_model, hook, sequences, folder, progress=progress
        )
    return Material(language_model, hook, corpus, sequences, activations)


def _sequences(
    shop: Workshop, model: LanguageModel, corpus: Corpus, params: CorpusParams, progress: Progress
) -> Sequences:
    key = content_key(
        corpus=corpus.sha256,
        tokenizer=model.tokenizer_sha256,
        length=params.length,
        tokens=params.tokens,
        seed=_SEED,
    )
    folder = shop.artifacts.sequences(key)
    if folder.exists():
        sequences = Sequences.load(folder)
    else:
        sequences = pack(corpus, model, length=params.length, max_tokens=params.tokens, seed=_SEED, progress=progress)
        make_folder(folder, sequences.save)
    progress(sequences.n_counted, sequences.n_counted)
    return sequences


def make_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder` and rename it into place: it is there whole, or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    write(partial)
    partial.rename(folder)


async def train_sae(
    run: RunContext, shop: Workshop, slug: str, config: TrainingConfig, material: Material
) -> tuple[SAE, SaeDetail]:
    """Train the SAE of this slug, save and register it; one that was trained just so is taken as it is.

    Raises:
        Conflict: the slug belongs to an SAE that was trained otherwise.
        TrainingDiverged: the loss is no longer a number; the last good checkpoint is kept.
    """
    key = content_key(
        model=material.model.weights_sha256,
        hook=str(material.hook),
        sequences=material.sequences.sha256,
        training=asdict(config.resolved()),
    )
    async with run.stage("train", record=True) as progress:
        known = await _find(shop, slug)
        if known is not None and known.config.get("training_key") != key:
            raise Conflict(f"The SAE {slug} exists and was trained with other settings. Choose another name (--name).")
        if known is not None and shop.artifacts.sae(slug).exists():
            sae = await run.in_thread(SAE.load, shop.artifacts.sae(slug))
            progress(config.samples, config.samples)
        else:
            sae = await run.in_thread(_train, shop, slug, config, material, key, progress)
            known = await register_trained(shop, slug, config, material, key, run.created_by)
            shutil.rmtree(shop.artifacts.training(key), ignore_errors=True)
        async with shop.sessions.begin() as session:
            await runs.set_sae(session, run.run_id, known.id)
    return sae, known


def _train(shop: Workshop, slug: str, config: TrainingConfig, material: Material, key: str, progress: Progress) -> SAE:
    """Train, from the last checkpoint if there is one, and save the SAE."""
    checkpoints = shop.artifacts.training(key)
    sae = train(config, material.cache, checkpoints, device=shop.settings.device, progress=progress)
    metadata = {
        "model_name": material.model.name,
        "hook_name": material.hook.transformer_lens,
        "context_size": material.sequences.length,
        "prepend_bos": material.model.bos_token_id is not None,
        "dataset_path": material.corpus.source,
        "training_key": key,
    }
    make_folder(shop.artifacts.sae(slug), lambda partial: sae.save(partial, metadata))
    return sae


async def open_sae(shop: Workshop, slug: str) -> tuple[SAE, SaeDetail]:
    """Read a registered SAE.

    Raises:
        NotFound: there is no such SAE.
        CheckpointError: its files cannot be read.
    """
    detail = await _find(shop, slug)
    if detail is None:
        async with shop.sessions() as session:
            known = ", ".join(other.slug for other in await saes.list_saes(session))
        raise NotFound(f"There is no SAE {slug}. " + (f"There are: {known}." if known else "Train one first."))
    return SAE.load(shop.artifacts.root / detail.artifact), detail


async def _find(shop: Workshop, slug: str) -> SaeDetail | None:
    async with shop.sessions() as session:
        return await saes.get_sae(session, slug)


async def index_sae(
    run: RunContext, shop: Workshop, sae: SAE, detail: SaeDetail, material: Material
) -> FeatureStatistics:
    """Compute the statistics of all features over the sequences, and publish them in the place of the SAE's index."""
    async with run.stage("encode") as progress:
        folder = shop.artifacts.index(content_key(sae=detail.weights_sha256, sequences=material.sequences.sha256))
        store = await run.in_thread(build_store, sae, material.cache, material.sequences, folder, progress=progress)
    async with run.stage("statistics") as progress:
        directions = None
        if material.hook.name.startswith(_WRITES_RESIDUAL):
            directions = await run.in_thread(material.model.output_directions)
        statistics = await run.in_thread(
            compute_statistics, store, material.sequences, sae, directions, seed=_SEED, progress=progress
        )
    async with run.stage("publish") as progress:
        await publish(shop, detail, material, statistics, progress)
    return statistics


async def evaluate_sae(
    run: RunContext, shop: Workshop, sae: SAE, detail: SaeDetail, material: Material, *, predictions: int = 4096
) -> Evaluation:
    """Measure the SAE on held-out sequences, and keep the figures with it.

    `predictions` is how many are scored for the cross-entropy metrics; they cost four passes of the whole model.
    """
    async with run.stage("evaluate") as progress:
        evaluation = await run.in_thread(
            evaluate,
            material.model,
            sae,
            material.hook,
            material.sequences,
            activations=material.cache,
            max_tokens=predictions,
            progress=progress,
        )
        async with shop.sessions.begin() as session:
            await saes.set_metrics(session, detail.id, asdict(evaluation))
    return evaluation
