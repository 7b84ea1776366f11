"""Stages that several kinds of run are made of. Each finds what an earlier attempt left, and makes only the rest."""

import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.artifacts import store_key
from app.errors import Conflict
from app.pipeline import distributed
from app.pipeline.prepared_inputs import SEED, PreparedInputs, TokenisedInputs
from app.pipeline.registered import claim_name, find_sae
from app.pipeline.registration import publish, register_trained
from app.pipeline.shared_work import encode_work, statistics_work
from app.pipeline.training_plans import TrainingPlan
from app.queries import runs, saes
from app.queries.feature_maps import map_settings, put_map
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.sharing import shared
from app.web.components.output_tokens import no_output_tokens
from sae_core.checkpoints import load_sae, save_sae
from sae_core.evaluation import Evaluation, evaluate
from sae_core.files import make_folder, sha256_code, write_json
from sae_core.locks import folder_lock
from sae_core.models import OutputDirections, ReadoutError
from sae_core.progress import Progress, subprogress
from sae_core.saes import SAE
from sae_core.statistics.compute import compute_statistics
from sae_core.statistics.decoders import NearDecoders
from sae_core.statistics.map import NEIGHBOURS, feature_map
from sae_core.statistics.types import FeatureStatistics
from sae_core.store.activation_store import build_store
from sae_core.training.curves import CURVES

PREDICTIONS = 4096
"""Predictions that an evaluation scores for the cross-entropy metrics, which cost four passes of the model."""


async def claim_names(run: RunContext, ctx: JobContext, plans: Sequence[TrainingPlan], inputs: TokenisedInputs) -> None:
    """Keep the names of the SAEs for this run, before the model runs.

    Raises:
        Conflict: a name belongs to another SAE, or to one that another run is making.
    """
    for plan in plans:
        key = plan.key(inputs)
        await _find_trained(ctx, plan.slug, key)
        await claim_name(run, ctx, plan.slug, key)


async def train_saes(
    run: RunContext,
    ctx: JobContext,
    plans: Sequence[TrainingPlan],
    inputs: PreparedInputs,
    *,
    track: Sequence[str] = (),
    feature_shards: int = 1,
    named: bool = False,
) -> list[tuple[SAE, SaeDetail]]:
    """Train SAEs on one stream of activations, save and register them. One with the same training key is kept.

    Their curves have their names in front if there are several, or if the run trains others too (`named`).

    Raises:
        Conflict: a slug belongs to an SAE with another training key.
        TrainingDiverged: a loss is not finite; the last good checkpoints are kept.
    """
    keys = {plan.slug: plan.key(inputs) for plan in plans}
    async with run.stage("train", record=True) as progress, AsyncExitStack() as locks:
        for key in sorted(keys.values()):  # in one order, so that no two runs wait for each other
            await locks.enter_async_context(run.lock("train", ctx.artifacts.training(key), "the same SAE"))
        known = {slug: await _find_trained(ctx, slug, key) for slug, key in keys.items()}
        for slug in (slug for slug, detail in known.items() if detail is not None):
            await run.in_thread(ctx.artifacts.pull, ctx.artifacts.sae(slug))
        missing = [plan for plan in plans if known[plan.slug] is None or not ctx.artifacts.sae(plan.slug).exists()]
        if missing:
            names = [plan.slug for plan in missing] if named or len(plans) > 1 else []
            await run.in_thread(
                partial(
                    _train,
                    ctx,
                    missing,
                    keys,
                    inputs,
                    names=names,
                    track=track,
                    feature_shards=feature_shards,
                    holder=f"run {run.run_id}",
                    progress=progress,
                )
            )
        else:
            await run.in_thread(distributed.release_workers, feature_shards)
        total = plans[0].config.samples
        progress(total, total)
        for plan in missing:
            await run.push(ctx.artifacts.sae(plan.slug))
            known[plan.slug] = await register_trained(
                ctx, plan.slug, plan.config, inputs, keys[plan.slug], run.created_by, run.run_id
            )
            shutil.rmtree(ctx.artifacts.training(keys[plan.slug]), ignore_errors=True)
        trained = []
        for plan in plans:
            detail = known[plan.slug]
            assert detail is not None
            trained.append((await run.in_thread(load_sae, ctx.artifacts.sae(plan.slug)), detail))
        async with ctx.sessions.begin() as session:
            await runs.set_sae(session, run.run_id, trained[0][1].id)
    return trained


async def _find_trained(ctx: JobContext, slug: str, training_key: str) -> SaeDetail | None:
    """Return the SAE of this slug, None if there is none.

    Raises:
        Conflict: it has another training key.
    """
    detail = await find_sae(ctx, slug)
    if detail is not None and detail.config.get("training_key") != training_key:
        raise Conflict(
            f"The SAE {slug} exists and was trained with other settings. Choose another `name`, or delete it."
        )
    return detail


def _train(
    ctx: JobContext,
    plans: Sequence[TrainingPlan],
    keys: dict[str, str],
    inputs: PreparedInputs,
    *,
    names: Sequence[str],
    track: Sequence[str],
    feature_shards: int,
    holder: str,
    progress: Progress,
) -> None:
    """Train, from the last checkpoints if there are any, and save the SAEs; `names` are the names of their curves."""
    folders = [ctx.artifacts.training(keys[plan.slug]) for plan in plans]
    request = distributed.TrainingRequest(
        configs=[plan.config for plan in plans],
        folders=folders,
        device=ctx.settings.device,
        sequences=inputs.sequences_folder,
        activations=inputs.cache.folder if inputs.cache else None,
    )
    trained = distributed.train(
        request,
        inputs.activations,
        feature_shards=feature_shards,
        names=names,
        trackers=[distributed.trackers(track, plan.slug, asdict(plan.config), ctx.artifacts.root) for plan in plans],
        progress=progress,
    )
    for plan, folder, sae in zip(plans, folders, trained, strict=True):
        target = ctx.artifacts.sae(plan.slug)
        with folder_lock(target, holder):
            make_folder(target, partial(_save, sae, plan, keys[plan.slug], folder, inputs))


def _save(sae: SAE, plan: TrainingPlan, key: str, checkpoints: Path, inputs: PreparedInputs, folder: Path) -> None:
    """Write an SAE, its curves, and its parameters in the form that `--config` takes."""
    hooks = inputs.hooks
    metadata: dict[str, Any] = {
        "model_name": inputs.model.name,
        "hook_name": hooks.input.transformer_lens,
        "context_size": inputs.sequences.length,
        "prepend_bos": bool(inputs.model.prefix()),
        "dataset_path": inputs.corpus.source,
        "seesae": {
            "training": asdict(plan.config.resolved()),
            "training_key": key,
            "sha256": {
                "model": inputs.model.weights_sha256,
                "tokenizer": inputs.model.tokenizer_sha256,
                "corpus": inputs.corpus.sha256,
                "sequences": inputs.sequences.sha256,
                "code": sha256_code(),
            },
        },
    }
    if hooks.output is not None:
        metadata["hook_name_out"] = hooks.output.transformer_lens
    save_sae(sae, folder, metadata)
    write_json(folder / "train.json", plan.options)
    if (checkpoints / CURVES).exists():
        shutil.copy(checkpoints / CURVES, folder / CURVES)


async def index_sae(
    run: RunContext, ctx: JobContext, sae: SAE, detail: SaeDetail, inputs: PreparedInputs
) -> FeatureStatistics:
    """Compute the statistics of all features over the sequences, and publish them as the SAE's index."""
    async with run.stage("encode") as progress:
        folder = ctx.artifacts.index(store_key(detail, inputs.sequences.sha256))
        assert inputs.cache is not None, "an index is made from activations on disk"
        work = encode_work(detail, inputs.cache.folder, inputs.sequences_folder, folder)
        async with run.lock("encode", folder, "this index"), shared(run, ctx, "encode", work) as make:
            store = await run.in_thread(
                build_store, sae, inputs.cache, inputs.sequences, folder, make=make, progress=progress
            )
    async with run.stage("statistics") as progress:
        output = await run.in_thread(_output_directions, inputs)
        work = statistics_work(folder, inputs.sequences_folder)
        async with run.lock("statistics", folder, "this index"), shared(run, ctx, "statistics", work) as make:
            statistics = await run.in_thread(
                compute_statistics,
                store,
                inputs.sequences,
                sae,
                output,
                inputs.model.input_tokens(),
                seed=SEED,
                make=make,
                progress=progress,
            )
        del output
    async with run.stage("publish") as progress:
        await publish(ctx, detail, inputs, statistics, progress)
    async with run.stage("map") as progress:
        await _draw_map(run, ctx, sae, detail.slug, statistics.neighbours, progress)
    return statistics


def _output_directions(inputs: PreparedInputs) -> OutputDirections | str:
    """Return the model's output directions, or why the SAE has no output tokens."""
    written = inputs.hooks.output or inputs.hooks.input
    if not inputs.model.writes_residual(written):
        return f"{written} is not a vector of the residual stream, which the logits are read from"
    try:
        return inputs.model.output_directions()
    except ReadoutError as error:
        return str(error)


def index_notes(statistics: FeatureStatistics) -> dict[str, list[str]]:
    """Return what the result of a run says about its index, as `notes`."""
    absent = no_output_tokens(statistics.provenance)
    return {} if absent is None else {"notes": [absent]}


async def _draw_map(
    run: RunContext, ctx: JobContext, sae: SAE, slug: str, neighbours: NearDecoders, progress: Progress
) -> None:
    """Lay out the features of the published index, which the site shows meanwhile."""
    settings = {"method": "umap", "umap": version("umap-learn"), "neighbours": NEIGHBOURS, "seed": SEED}
    detail = await find_sae(ctx, slug)
    assert detail is not None
    async with ctx.sessions() as session:
        if await map_settings(session, detail) == settings:
            return
    points = await run.in_thread(feature_map, sae.W_dec, neighbours, seed=SEED, progress=progress)
    async with ctx.sessions.begin() as session:
        await put_map(session, detail, points[:, 0].tolist(), points[:, 1].tolist(), settings)


async def evaluate_saes(
    run: RunContext,
    ctx: JobContext,
    trained: Sequence[tuple[SAE, SaeDetail]],
    inputs: PreparedInputs,
    *,
    predictions: int = PREDICTIONS,
) -> list[Evaluation]:
    """Measure SAEs on held-out sequences, and store the figures with them.

    `predictions` is the number of tokens scored for the cross-entropy metrics, which cost four passes of the model.
    """
    evaluations = []
    async with run.stage("evaluate") as progress:
        for number, (sae, detail) in enumerate(trained):
            evaluation = await run.in_thread(
                evaluate,
                inputs.model,
                sae,
                inputs.hooks.input,
                inputs.sequences,
                target=inputs.hooks.output,
                activations=inputs.cache,
                max_tokens=predictions,
                progress=subprogress(progress, number, len(trained)),
            )
            async with ctx.sessions.begin() as session:
                await saes.set_metrics(session, detail.id, asdict(evaluation) | {"held_out": _held_out(inputs)})
            evaluations.append(evaluation)
    return evaluations


def _held_out(inputs: PreparedInputs) -> dict[str, Any]:
    """Return which text the held-out tokens are of: figures of SAEs compare only where it is the same."""
    return {
        "sequences": inputs.sequences.sha256,
        "corpus": inputs.corpus_row.title,
        "text_tokens": inputs.sequences.n_counted,
    }


def dead_fraction(statistics: FeatureStatistics) -> float:
    """Return the share of features that are active on none of the indexed tokens."""
    return float((statistics["count"] == 0).mean())
