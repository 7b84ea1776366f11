"""Import an SAE with its weights: read and convert it, check it against its model, save it in our own layout."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.utils.tqdm import disable_progress_bars

from app.errors import Conflict, Unprocessable
from app.pipeline.identities import model_source, register_model
from app.pipeline.naming import sae_slug
from app.pipeline.params import LENGTH
from app.pipeline.prepared_inputs import HookPair, default_length
from app.pipeline.registered import claim_name, find_sae, hooks_of
from app.pipeline.registration import WEIGHTS, register_imported
from app.pipeline.sources import MODELS, fetch_packages, read_model
from app.queries import models, runs, saes
from app.queries.models import NO_WEIGHTS, ModelInfo
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from sae_core.checkpoints import FORMATS, Checkpoint, load, locate, save_sae
from sae_core.checkpoints.formats import folder_of
from sae_core.checkpoints.model_names import hub_id
from sae_core.checkpoints.saelens import CONFIG
from sae_core.errors import ModelError
from sae_core.files import make_folder, sha256_file, unshared_name
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE

if TYPE_CHECKING:
    from app.pipeline.import_sae import ImportParams

NEAR_MISSES = {
    "hook_normalized": " It lies inside a norm, before its gain, by which attn_in and mlp_in differ from it.",
    "hook_mlp_in": " TransformerLens reads it before the norm, where resid_mid is.",
    "hook_attn_in": " TransformerLens reads it before the norm, where resid_pre is.",
}
"""Points of TransformerLens that are easily mistaken for one of ours, by the end of their name."""


@dataclass(frozen=True, slots=True)
class ReadCheckpoint:
    """A checkpoint, and its origin."""

    checkpoint: Checkpoint
    origin: dict[str, Any]
    """Source, format, revision and hashes of the files, which are kept with the SAE."""
    notes: list[str]
    """Sentences on what the conversion did, and on how the SAE is used here."""

    @property
    def sae(self) -> SAE:
        """The SAE in its inference form."""
        return self.checkpoint.sae


async def import_weights(run: RunContext, ctx: JobContext, params: "ImportParams") -> dict[str, Any]:
    """Import an SAE with its weights, and return what became of it.

    Raises:
        CheckpointError: there is no SAE, it is damaged, or SeeSAE cannot do what it does.
        ModelError: its model cannot be loaded, or has no such hook point.
        Unprocessable: the checkpoint does not say what its model or hook point is, or they do not fit.
        Conflict: the slug belongs to another SAE.
        ArtifactError: the disk is full.
    """
    async with run.stage("read"):
        found = await run.in_thread(_read, params)
        hooks = _hooks(params, found)  # refuses an unknown hook point before the model is fetched
        if params.name is not None:
            await _refuse_taken(ctx, params.name, found.sae, hooks)
        source = await _model_source(ctx, params, found)
        async with ctx.sessions.begin() as session:  # it may be the checkpoint that names it, and not the parameters
            known = await models.find_model(session, source)
            await runs.note_use(session, run.run_id, *([] if known is None else [f"model {known.id}"]))
    cache = ctx.settings.home / "cache"
    async with run.stage("fetch") as progress:
        await run.in_thread(fetch_packages, source, None, cache, progress)
    async with run.stage("load"):
        with run.waiting("load", "its weights") as waiting:
            model = await run.in_thread(_load, source, params, ctx, cache, waiting)
        await run.in_thread(_check, found.sae, model, hooks)
    async with run.stage("register"):
        detail = await _register(run, ctx, params, found, model, hooks)
        async with ctx.sessions.begin() as session:
            await runs.set_sae(session, run.run_id, detail.id)
    return {
        "sae": detail.slug,
        "features": detail.d_sae,
        "format": found.checkpoint.format,
        "architecture": detail.architecture,
        "model": detail.model.name,
        **hooks.names(),
        **({} if detail.k is None else {"k": detail.k}),
        "notes": found.notes,
    }


def _read(params: "ImportParams") -> ReadCheckpoint:
    """Read and convert the checkpoint, fetching it from the hub where it is not on the disk.

    Raises:
        CheckpointError: there is no SAE, it is damaged, or SeeSAE cannot do what it does.
        ArtifactError: the disk is full.
    """
    disable_progress_bars()  # the run has bars of its own
    located = locate(params.source)
    # Without the folders of a local path, which are private to whoever imports it.
    origin: dict[str, Any] = {**(located.origin or {"source": located.path.name})}
    checkpoint = load(located.path, params.format, activation_scale=params.activation_scale)
    hashes = _sha256_of_files(folder_of(located.path), checkpoint.format)
    if params.activation_scale is not None:
        origin["activation_scale"] = params.activation_scale
    notes = [*checkpoint.notes, *_length(checkpoint.sae)]
    return ReadCheckpoint(checkpoint, {**origin, "format": checkpoint.format, "sha256": hashes}, notes)


def _length(sae: SAE) -> list[str]:
    """A note where sequences of an index differ in length from those in training."""
    length = default_length(sae)
    if sae.context_size is None or sae.context_size == length == LENGTH:
        return []
    trained = f"It was trained on sequences of {sae.context_size:,} tokens"
    if sae.context_size == length:
        return [f"{trained}; so are those of its index, unless `length` says otherwise."]
    return [f"{trained}; those of its index have {length}, unless `length` says otherwise."]


def _sha256_of_files(path: Path, format: str) -> dict[str, str]:
    """Of every file that the SAE was read from, by its name relative to the SAE's folder."""
    layout = FORMATS[format]
    if path.is_file():
        return {path.name: sha256_file(path)}
    named = [path / name for name in (layout.config, *layout.extras) if name]
    files = [file for file in (*path.glob(layout.weights), *named) if file.is_file()]
    return {os.path.relpath(file, path): sha256_file(file) for file in files}


# Where it reads


def _hooks(params: "ImportParams", found: ReadCheckpoint) -> HookPair:
    """Return the SAE's hook points: those of the parameters, else those of the checkpoint.

    Raises:
        ModelError: a parameter is not a hook point.
        Unprocessable: the checkpoint names no hook point that SeeSAE knows, or an autoencoder was given a second one.
    """
    hook = _hook(params.hook, "hook_name", "`hook` resid_post.9", found)
    if found.sae.is_transcoder:
        return HookPair(hook, _hook(params.hook_out, "hook_name_out", "`hook_out` mlp_out.9", found))
    if params.hook_out is not None:
        raise Unprocessable("The SAE is not a transcoder: it reconstructs what it reads. Leave `hook_out` out.")
    return HookPair(hook)


def _hook(given: str | None, key: str, example: str, found: ReadCheckpoint) -> HookPoint:
    """Return the hook point that was given, or that the checkpoint's metadata has under `key`."""
    stated = found.checkpoint.metadata.get(key)
    known = _parsed(stated)
    if given is not None:
        hook = HookPoint.parse(given)
        if stated is not None and hook != known:
            found.notes.append(f"It is used at {hook}, as given; the checkpoint says {stated}.")
        return hook
    if known is not None:
        return known
    does = "reads" if key == "hook_name" else "reconstructs"
    if stated is None:
        raise Unprocessable(f"The checkpoint does not say what the SAE {does}. Say it, for example {example}.")
    nearly = next((hint for end, hint in NEAR_MISSES.items() if str(stated).endswith(end)), "")
    raise Unprocessable(
        f"The SAE {does} {stated}, which is not a hook point that SeeSAE knows.{nearly} "
        f"If it is the same as one that it knows, name that, for example {example}."
    )


def _parsed(stated: Any) -> HookPoint | None:
    try:
        return HookPoint.parse(stated) if isinstance(stated, str) else None
    except ModelError:
        return None


# Its model


async def _model_source(ctx: JobContext, params: "ImportParams", found: ReadCheckpoint) -> str:
    """Return the source of the model that the SAE was trained on, as `read_model` takes it.

    A name that the checkpoint gives is looked for here first: in `MODELS`, then among the models of other SAEs.

    Raises:
        Unprocessable: neither the command nor the checkpoint names one.
    """
    revision = _revision(found)
    if params.model is not None:
        if revision is not None:
            found.notes.append(f"Its model is revision {revision}, which the model that was given was taken for.")
        return params.model
    name = found.checkpoint.metadata.get("model_name")
    if revision is not None:
        raise Unprocessable(
            f"The checkpoint says that its model is revision {revision} of {name}, and SeeSAE loads the main one only. "
            "Download that revision, and give its folder as `model`."
        )
    if not isinstance(name, str) or not name:
        raise Unprocessable("The checkpoint does not say which model it was trained on. Name it as `model`.")
    if name in MODELS:
        return name
    async with ctx.sessions() as session:
        registered = [other.model for other in await saes.list_saes(session)]
    stated = _stated_weights(found)
    same = next((model for model in registered if model.weights_sha256 == stated), None) or next(
        (model for model in registered if model.name == name), None
    )
    if same is not None:
        return model_source(same)
    if hub_id(name) != name:
        found.notes.append(f"Its model, {name}, was taken to be {hub_id(name)}.")
    return hub_id(name)


def _stated_weights(found: ReadCheckpoint) -> str | None:
    """Return the hash of the model's weights, which SeeSAE writes beside its name: models may share a name."""
    theirs = found.checkpoint.metadata.get("seesae")
    hashes = theirs.get("sha256") if isinstance(theirs, dict) else None
    stated = hashes.get("model") if isinstance(hashes, dict) else None
    return stated if isinstance(stated, str) and stated != NO_WEIGHTS else None


def _revision(found: ReadCheckpoint) -> str | None:
    """Return the revision of the model that the SAE was trained on, None for the main one."""
    options = found.checkpoint.metadata.get("model_from_pretrained_kwargs")
    revision = options.get("revision") if isinstance(options, dict) else None
    return None if revision in (None, "main") else str(revision)


def _load(
    source: str, params: "ImportParams", ctx: JobContext, cache: Path, waiting: Callable[[str], None]
) -> LanguageModel:
    """Load the model.

    Raises:
        ModelError: it cannot be loaded; where the checkpoint named it, the message says how to name another.
    """
    try:
        return read_model(
            source, device=ctx.settings.device, cache=cache, converted=ctx.artifacts.models, waiting=waiting
        )
    except ModelError as error:
        if params.model is not None:
            raise
        raise ModelError(
            f"{error} The checkpoint names this model; if you have it elsewhere, give that folder as `model`."
        ) from error


def _check(sae: SAE, model: LanguageModel, hooks: HookPair) -> None:
    """Refuse an SAE that does not fit this model at these hook points.

    Raises:
        ModelError: the model has no such hook point.
        Unprocessable: it is of another width there.
    """
    sides = [("reads", hooks.input, sae.d_in, "hook")]
    if hooks.output is not None:
        sides.append(("reconstructs", hooks.output, sae.d_out, "hook_out"))
    for does, hook, width, parameter in sides:
        try:
            found = model.d_in(hook)
        except ModelError as error:
            raise ModelError(f"{error} Is this its hook point (`{parameter}`), and its model (`model`)?") from error
        if found != width:
            raise Unprocessable(
                f"The SAE {does} {width} dimensions, but {model.name} has {found} at {hook}: "
                f"is this its hook point (`{parameter}`), and its model (`model`)?"
            )


# Where it is kept


async def _register(
    run: RunContext,
    ctx: JobContext,
    params: "ImportParams",
    found: ReadCheckpoint,
    model: LanguageModel,
    hooks: HookPair,
) -> SaeDetail:
    """Save the SAE in its folder and write its row; one that is there already, the very same, is left as it is.

    Raises:
        Conflict: the slug belongs to another SAE, of which nothing was touched.
        ArtifactError: the disk is full.
    """
    sae, names = found.sae, hooks.names()
    registered = await register_model(ctx, run.run_id, model, name=params.model_name)
    model.name = registered.name
    slug = params.name or sae_slug(model.name, names["hook"], sae.architecture, sae.d_sae, sae.k, names.get("hook_out"))
    imported = {**found.origin, "notes": found.notes}
    config = {"architecture": _trained_as(sae), "imported": imported, "run": run.run_id}
    metadata = _metadata(params, found, model, hooks, imported)
    folder = ctx.artifacts.sae(slug)
    written = unshared_name(folder, "partial")

    def move(path: Path) -> None:
        written.rename(path)

    async with run.lock("register", folder, "this SAE"):
        try:
            await run.in_thread(make_folder, written, lambda path: save_sae(sae, path, metadata))
            weights_sha256 = await run.in_thread(sha256_file, written / WEIGHTS)
            known = await _same_or_none(ctx, slug, weights_sha256, registered, hooks)
            if known is not None and folder.exists() and _inference_config(folder) != _inference_config(written):
                raise _taken(slug)
            await claim_name(run, ctx, slug, weights_sha256)
            if known is None or not folder.exists():
                make_folder(folder, move)
            await run.push(folder)
        finally:
            shutil.rmtree(written, ignore_errors=True)
        return await register_imported(ctx, slug, sae, weights_sha256, registered, hooks, config, run.created_by)


async def _refuse_taken(ctx: JobContext, slug: str, sae: SAE, hooks: HookPair) -> None:
    """Refuse a name whose SAE cannot be this one, before the model is fetched."""
    known = await find_sae(ctx, slug)
    if known is not None and (known.d_in, known.d_sae, hooks_of(known)) != (sae.d_in, sae.d_sae, hooks):
        raise _taken(slug)


def _taken(slug: str) -> Conflict:
    return Conflict(
        f"There is another SAE named {slug}, with other weights, config, model or hook point. Give this one "
        "another `name`."
    )


async def _same_or_none(
    ctx: JobContext, slug: str, weights_sha256: str, model: ModelInfo, hooks: HookPair
) -> SaeDetail | None:
    """The SAE of this slug, if there is one; it has to be this one."""
    known = await find_sae(ctx, slug)
    if known is None or (known.weights_sha256, known.model.id, hooks_of(known)) == (weights_sha256, model.id, hooks):
        return known
    raise _taken(slug)


def _inference_config(folder: Path) -> dict[str, Any]:
    """Return what a saved SAE's activations depend on beside its weights."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return {name: value for name, value in config.items() if name != "metadata"}


def _metadata(
    params: "ImportParams", found: ReadCheckpoint, model: LanguageModel, hooks: HookPair, imported: dict[str, Any]
) -> dict[str, Any]:
    """Return the checkpoint's metadata with the names used here; its own name of the model stays if it was used."""
    metadata = dict(found.checkpoint.metadata)
    theirs = metadata.get("seesae")
    metadata["model_name"] = metadata["model_name"] if params.model is None else model.name
    metadata["hook_name"] = hooks.input.transformer_lens
    if hooks.output is not None:
        metadata["hook_name_out"] = hooks.output.transformer_lens
    metadata["seesae"] = {**(theirs if isinstance(theirs, dict) else {}), "imported": imported}
    return metadata


def _trained_as(sae: SAE) -> str:
    """The architecture that was trained, where SeeSAE trained it and the checkpoint still says so."""
    theirs = sae.metadata.get("seesae")
    training = theirs.get("training") if isinstance(theirs, dict) else None
    trained = training.get("architecture") if isinstance(training, dict) else None
    return trained if isinstance(trained, str) else sae.architecture
