"""Checks of a run before it starts, and its estimated cost: without torch, because the site asks too.

Paths and free space are those of the machine that takes the request. Workers elsewhere see the same folders, as
docs/deploy.md says; a run whose files they lack fails in its first stage.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.artifacts import Artifacts, reading_key
from app.errors import Conflict, NotFound, NoWeights, Unprocessable
from app.pipeline.params import DEMO_CORPUS, DEMO_MODEL, LENGTH, CorpusParams, IndexedCorpusParams, TextOfSaeParams
from app.queries.models import find_model
from app.queries.monitors import get_monitor
from app.queries.runs import corpus_params, list_active, stage_speed
from app.queries.saes import SaeDetail, get_sae
from app.queries.text_readings import get_reading
from app.queries.text_sets import get_text_set, list_texts
from app.runs.spec import Estimate
from app.services.audit_results import MEASURED_SETS
from app.services.audits import check_auditable, read_audited_file
from app.services.builtin_sets import BUILTIN_SETS
from app.services.edits import find_edit
from app.services.monitors import (
    check_elsewhere,
    check_has_chats,
    check_sides,
    find_monitor,
    texts_of_side,
    usable_file,
)
from app.services.probing import MOST_TEST, MOST_TRAIN, PROBE_SETS, draw_texts, named_sets
from app.services.saes import check_comparable, find_sae
from app.services.text_comparisons import find_sides, split_side
from app.services.text_files import check_text_file
from app.services.text_sets import find_text_set
from app.services.vectors import unpack_vector

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.pipeline.audit import AuditParams
    from app.pipeline.compare import CompareParams
    from app.pipeline.compare_texts import CompareTextsParams
    from app.pipeline.effects import EffectsParams
    from app.pipeline.evaluate import EvaluateParams
    from app.pipeline.import_sae import ImportParams
    from app.pipeline.measure_edit import MeasureEditParams
    from app.pipeline.monitor import MonitorParams
    from app.pipeline.monitor_scan import MonitorScanParams
    from app.pipeline.train import TrainParams
    from app.queries.edits import EditView
    from app.settings import Settings

_FILES = (
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".gguf",
    ".gz",
    ".safetensors",
    ".npz",
    ".pt",
)
"""Endings of names that are files, and no address on the hub."""
_ACTIVATION_BYTES = 4
_STORED_BYTES = 8
"""A position and a value: what the activation store keeps of each non-zero activation."""
_AUDIT_TEXTS = 3000
"""Texts of a set that is not there yet: for estimates alone."""
_AUDIT_PASSES = 5
"""Of the model over the pairs, beside those of random controls: as it is, for features, and three treatments."""
_TOKENS_PER_PAIR_TEXT = 20
SECONDS_PER_WINDOW = 0.06
"""Of an effect, before any was measured: the demo's model on two cores."""
_TOKEN_CHARACTERS = 4
"""Bytes of text per token, roughly: for estimates alone."""
_TOKENS_PER_PROBED_TEXT = 80
_PROBING_PASSES = 2
"""The cost of probing a text before any was probed, in passes of the model: random dictionaries cost about another."""
_SPELLING_TOKENS = 256 * 90
_SPELLING_PASSES = 2
"""Of a token that goes through the whole model, in passes up to the hook. What follows, only some models need."""
_TOKENS_PER_TEXT = 60
"""Roughly, for estimates of text sets that were not read yet."""
_LAYER = re.compile(r"blocks\.(\d+)\.[\w.]+|[a-z_]+\.(\d+)")
_DEMO_SHAPE = (30, 576)
"""Layers and width of the demo's model, which has no folder to read them from."""


async def check_training(session: "AsyncSession", settings: "Settings", params: "TrainParams") -> Estimate:
    """Refuse a training whose corpus, model, layer or room is missing, or whose name another SAE has."""
    check_corpus(params)
    check_source(params.model, "model")
    layers, width = await _shape(session, params.model)
    hooks = [*params.hook, *([] if params.hook_out is None else [params.hook_out])]
    for hook in hooks:
        _check_layer(hook, layers, params.model)
    if params.name is not None:
        _check_name(await get_sae(session, params.name), params)
    model = await find_model(session, params.model)
    return await asyncio.to_thread(
        _estimate,
        settings,
        params,
        width=0 if params.stream or width is None else width * len(hooks),
        speed=None if model is None else await stage_speed(session, model.id, "activations"),
    )


async def check_indexing(
    session: "AsyncSession", settings: "Settings", params: IndexedCorpusParams, slugs: Sequence[str]
) -> Estimate:
    """Refuse an index or evaluation whose SAEs, weights, corpus or room is missing, or whose SAEs are of two models."""
    saes = [await find_sae(session, slug) for slug in slugs]
    for sae in saes:
        if not sae.has_weights:
            raise NoWeights(sae.slug)
        if sae.model.id != saes[0].model.id:
            raise Unprocessable(
                f"{saes[0].slug} is of {saes[0].model.name}, and {sae.slug} of {sae.model.name}: one run reads one "
                "model. Index the SAEs of each model by a run of their own."
            )
    check_corpus(params)
    read = {(hook, sae.d_in) for sae in saes for hook in (sae.hook, sae.hook_out) if hook is not None}
    return await asyncio.to_thread(
        _estimate,
        settings,
        params,
        width=sum(width for _, width in read),
        speed=await stage_speed(session, saes[0].model.id, "activations"),
        stored=sum(sae.metrics.get("l0") or 0.0 for sae in saes),
    )


async def check_evaluation(session: "AsyncSession", settings: "Settings", params: "EvaluateParams") -> Estimate:
    """Refuse what `check_indexing`, `draw_texts` and `interpretability_cost` refuse; add what those two take."""
    sae = await find_sae(session, params.sae)
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    if params.absorption and sae.hook_out is not None:
        raise Unprocessable(f"{sae.slug} is a transcoder. Absorption is measured where an SAE rebuilds what it reads.")
    text = await text_of_sae(session, [sae], params)
    estimate = await check_indexing(session, settings, text, [params.sae])
    if params.interpret is not None:
        from app.pipeline.interpreted import interpretability_cost

        cost = await interpretability_cost(session, settings, sae, params.interpret, params.seed)
        estimate = replace(estimate, requests=cost.requests, tokens_out=cost.tokens_out, dollars=cost.dollars)
    if params.absorption:
        read = await stage_speed(session, sae.model.id, "activations")
        seconds = _SPELLING_TOKENS * _SPELLING_PASSES / read if read else None
        estimate = replace(estimate, seconds=None if seconds is None else (estimate.seconds or 0.0) + seconds)
    if params.probing is None:
        return estimate
    texts = 0
    for name in named_sets(params.probing):
        if name in BUILTIN_SETS and await get_text_set(session, name) is None:  # the run adds it
            if name not in PROBE_SETS:
                raise Unprocessable(
                    f"{name} is not here yet. Add the text set first, or probe on one of {', '.join(PROBE_SETS)}."
                )
            texts += MOST_TRAIN + MOST_TEST
        else:
            view = await find_text_set(session, name)
            texts += len(draw_texts(name, await list_texts(session, view.id)))
    speed = await stage_speed(session, sae.model.id, "probe")
    if speed is None:
        tokens = await stage_speed(session, sae.model.id, "activations")
        speed = tokens and tokens / (_TOKENS_PER_PROBED_TEXT * _PROBING_PASSES)
    return replace(estimate, seconds=(estimate.seconds or 0.0) + texts / speed if speed else None)


async def check_effects(session: "AsyncSession", settings: "Settings", params: "EffectsParams") -> Estimate:
    """Refuse what `check_indexing` refuses, and unknown features; add the time that measuring takes."""
    estimate = await check_indexing(session, settings, params, [params.sae])
    sae = await find_sae(session, params.sae)
    check_features(sae, params.features)
    features = len(params.features) if params.features else min(params.sample, sae.d_sae)
    speed = await stage_speed(session, sae.model.id, "effects")
    seconds = features / speed if speed else features * params.contexts * SECONDS_PER_WINDOW
    return replace(estimate, seconds=(estimate.seconds or 0.0) + seconds)


async def check_edit(session: "AsyncSession", settings: "Settings", params: "MeasureEditParams") -> Estimate:
    """Refuse the measurement of an edit that is not there, or whose SAEs or corpus are gone."""
    edit = await find_edit(session, params.edit)
    saes = await saes_of_edit(session, edit)
    corpus = await text_of_sae(session, saes, params)
    await check_indexing(session, settings, corpus, [sae.slug for sae in saes])
    tokens = params.held_out * (2 + params.controls)
    speed = await stage_speed(session, saes[0].model.id, "activations")
    return Estimate(tokens=tokens, seconds=2 * tokens / speed if speed else None)


async def saes_of_edit(session: "AsyncSession", edit: "EditView") -> list[SaeDetail]:
    """Return the SAEs of an edit, in the order of its sites.

    Raises:
        Conflict: one of them was deleted.
    """
    gone = [sae.slug for sae in edit.saes if sae.id is None]
    if gone:
        raise Conflict(
            f"{gone[0]} was deleted, so there are no features to compare the edit “{edit.title}” with. It can still "
            "be downloaded and applied."
        )
    return [await find_sae(session, sae.slug) for sae in edit.saes]


async def text_of_sae(
    session: "AsyncSession", saes: Sequence[SaeDetail], params: "MeasureEditParams | AuditParams | TextOfSaeParams"
) -> IndexedCorpusParams:
    """Return the text to measure on: what is given, or that on which an SAE was indexed or trained.

    Of that text, what `params` say otherwise than their defaults replaces what the run had.

    Raises:
        Unprocessable: neither is known.
    """
    names = [name for name in IndexedCorpusParams.model_fields if name in type(params).model_fields]
    given = {name: getattr(params, name) for name in names}
    if params.corpus is not None:
        return IndexedCorpusParams(**given)
    given = {name: value for name, value in given.items() if value != type(params).model_fields[name].default}
    for sae in saes:
        known = await corpus_params(session, sae)
        if known is not None:
            own = {name: value for name, value in known.items() if name in IndexedCorpusParams.model_fields}
            return IndexedCorpusParams.model_validate(own | given)
        if sae.index is not None and sae.index.sequence_set.corpus.slug == DEMO_CORPUS:
            return IndexedCorpusParams(**given)
    raise Unprocessable(f"Which text {saes[0].slug} was indexed on is not known here. Give the `corpus` to measure on.")


async def check_comparison(session: "AsyncSession", _settings: "Settings", params: "CompareParams") -> Estimate:
    """Refuse a comparison of SAEs that do not exist, or are of different models."""
    check_comparable(await find_sae(session, params.a), await find_sae(session, params.b))
    return Estimate()


async def check_reading(session: "AsyncSession", slug: str, names: Sequence[str], max_tokens: int) -> Estimate:
    """Refuse text sets or an SAE that are not there, and estimate what is left to read.

    Raises:
        NotFound, NoWeights: there is no such SAE or set, or the SAE has no weights.
    """
    sae = await find_sae(session, slug)
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    tokens = 0
    for name in dict.fromkeys(names):
        view = await find_text_set(session, name)
        known = await get_reading(session, sae.id, view.id, max_tokens)
        if known is None or known.key != reading_key(sae, view.hash, max_tokens):
            tokens += view.counts.texts * min(max_tokens, _TOKENS_PER_TEXT)
    speed = await stage_speed(session, sae.model.id, "read")
    speed = speed or await stage_speed(session, sae.model.id, "activations")
    return Estimate(tokens=tokens, seconds=tokens / speed if speed else None)


async def check_text_comparison(session: "AsyncSession", params: "CompareTextsParams") -> Estimate:
    """Refuse what `check_reading` and `find_sides` refuse."""
    sides = await find_sides(session, params.a, params.b)
    return await check_reading(session, params.sae, [sides.a.view.name, sides.b.view.name], params.max_tokens)


async def check_monitor(session: "AsyncSession", params: "MonitorParams") -> Estimate:
    """Refuse a monitor whose name is taken, whose features there are not, or whose texts are too few for the rate."""
    if await get_monitor(session, params.name) is not None:
        raise Conflict(f"There is a monitor named {params.name} already. Choose another name, or delete it.")
    for run in await list_active(session):
        if run.kind == "monitor" and run.params["name"] == params.name and run.params != params.model_dump(mode="json"):
            raise Conflict(f"Run {run.id} is making another monitor named {params.name}. Choose another name.")
    sae = await find_sae(session, params.sae)
    check_features(sae, params.features)
    if params.direction is not None and (width := len(unpack_vector(params.direction))) != sae.d_in:
        raise Unprocessable(f"The direction has {width:,} numbers, and {sae.slug} reads {sae.d_in:,} at {sae.hook}.")
    sets = dict.fromkeys(split_side(side)[0] for side in params.sides)
    # A built-in set is added by the run itself, and its texts are enough.
    there = [name for name in sets if name not in BUILTIN_SETS or await get_text_set(session, name) is not None]
    if all(split_side(side)[0] in there for side in (params.positive, params.benign)):
        await check_sides(session, params.positive, params.benign, params.fpr)
    check_elsewhere(params.positive_elsewhere, params.benign_elsewhere)
    for side in params.sides:
        if split_side(side)[0] in there:
            check_has_chats(side, (await texts_of_side(session, side))[1], params.tokens)
    return await check_reading(session, params.sae, there, params.max_tokens)


async def check_monitor_scan(session: "AsyncSession", params: "MonitorScanParams") -> Estimate:
    """Refuse a monitor that cannot run, and texts that are not there."""
    monitor = await find_monitor(session, params.monitor)
    await usable_file(session, monitor)
    if params.file is not None:
        check_source(params.file, "file")
        await asyncio.to_thread(check_text_file, Path(params.file))
        return Estimate()
    _, texts = await texts_of_side(session, params.textset or "")
    return Estimate(tokens=len(texts) * min(monitor.figures["max_tokens"], _TOKENS_PER_TEXT))


async def check_audit(session: "AsyncSession", settings: "Settings", params: "AuditParams") -> Estimate:
    """Refuse an audit of an SAE, features, a set or a text that are not there, or of a set without pairs or groups."""
    sae = await find_sae(session, params.sae)
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    check_features(sae, params.features)
    check_source(params.on, "text set")
    texts = None
    if Path(params.on).is_absolute():
        texts = len((await asyncio.to_thread(read_audited_file, Path(params.on)))[1])
    elif params.on not in MEASURED_SETS or await get_text_set(session, params.on) is not None:
        view = await find_text_set(session, params.on)
        check_auditable(view.name, view.counts)
        texts = view.counts.texts
    corpus = await text_of_sae(session, [sae], params)
    await check_indexing(session, settings, corpus, [sae.slug])
    texts = min(texts or _AUDIT_TEXTS, 2 * (params.pairs or _AUDIT_TEXTS))
    passes = _AUDIT_PASSES + params.controls
    tokens = passes * (texts * _TOKENS_PER_PAIR_TEXT + params.held_out)
    speed = await stage_speed(session, sae.model.id, "activations")
    return Estimate(tokens=tokens, seconds=tokens / speed if speed else None)


def check_features(sae: SaeDetail, features: Sequence[int] | None) -> None:
    """Refuse features that an SAE does not have.

    Raises:
        Unprocessable: it has no such feature.
    """
    for feature in features or ():
        if feature >= sae.d_sae:
            raise Unprocessable(f"{sae.slug} has no feature {feature}: its features are 0 to {sae.d_sae - 1}.")


async def check_import(_session: "AsyncSession", _settings: "Settings", params: "ImportParams") -> Estimate:
    """Refuse an import of files that are not there."""
    if not params.source.startswith("hf:"):
        check_source(params.source, "SAE")
    if params.model is not None:
        check_source(params.model, "model")
    return Estimate()


def check_corpus(params: CorpusParams) -> None:
    """Refuse a corpus that is a file which is not there, or a word that names none.

    Raises:
        NotFound: it is not.
    """
    if params.corpus == DEMO_CORPUS:
        return
    check_source(params.corpus, "corpus")
    if "/" not in params.corpus and not Path(params.corpus).is_absolute():
        raise NotFound(
            f"There is no corpus named {params.corpus[:100]}. Give {DEMO_CORPUS}, the whole path of a file or folder, "
            "or a dataset of the Hugging Face hub as OWNER/NAME."
        )


def check_source(source: str, what: str) -> None:
    """Refuse a path of which nothing is there.

    Raises:
        NotFound: there is nothing at the path.
    """
    path = Path(source)
    try:
        missing = not path.exists() if path.is_absolute() else source.lower().endswith(_FILES)
    except OSError:  # such as a name that is too long: the run's first stage says what is wrong with it
        return
    if missing:
        raise NotFound(
            f"There is no {what} at {source[:200]}. Give the whole path of a file or folder of this machine."
        )


def _check_layer(hook: str, layers: int | None, model: str) -> None:
    named = _LAYER.fullmatch(hook)
    if named is None:
        raise Unprocessable(f"“{hook[:80]}” is not a hook point. Write a point and a layer, such as resid_post.9.")
    layer = int(named[1] or named[2])
    if layers is not None and layer >= layers:
        raise Unprocessable(f"{Path(model).name} has no layer {layer}: its layers are 0 to {layers - 1}.")


def _check_name(existing: SaeDetail | None, params: "TrainParams") -> None:
    """Refuse a name that an SAE of another kind has; whether it is the same SAE is known once the corpus is read."""
    if existing is None:
        return
    wanted = (params.architecture[0], params.width[0], params.hook_out is None)
    if wanted != (existing.architecture, existing.d_sae, existing.hook_out is None):
        raise Conflict(
            f"There is another SAE named {existing.slug} ({existing.architecture}, {existing.d_sae:,} features). "
            "Choose another `name`."
        )


async def _shape(session: "AsyncSession", model: str) -> tuple[int | None, int | None]:
    """Return the number of layers and the width of a model, None where neither database nor folder says."""
    if model == DEMO_MODEL:
        return _DEMO_SHAPE
    known = await find_model(session, model)
    return (known.n_layers, known.d_model) if known is not None else _shape_of_folder(Path(model))


def _shape_of_folder(folder: Path) -> tuple[int | None, int | None]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        layers = next((config[name] for name in ("num_hidden_layers", "n_layer", "num_layers") if name in config), None)
        width = next((config[name] for name in ("hidden_size", "n_embd", "d_model") if name in config), None)
    except (OSError, ValueError, AttributeError, TypeError):
        return None, None
    return layers if isinstance(layers, int) else None, width if isinstance(width, int) else None


def _estimate(
    settings: "Settings", params: CorpusParams, *, width: int, speed: float | None, stored: float = 0.0
) -> Estimate:
    """Return the cost of running a model over a corpus; `stored` is the non-zero activations per token of a store.

    Raises:
        Conflict: the activations do not fit on the disk.
        Unprocessable: they are larger than SEESAE_CACHE_LIMIT.
    """
    corpus = Path(params.corpus)
    size = _size(corpus) if corpus.is_absolute() else None
    tokens = params.tokens
    if size is not None:
        tokens = min(tokens or size, max(size // _TOKEN_CHARACTERS, 1))
    cached = (tokens + LENGTH) * width * _ACTIVATION_BYTES if tokens else 0
    disk = None if tokens is None else cached + int((tokens + LENGTH) * stored * _STORED_BYTES)
    artifacts = Artifacts.of(settings)
    folder = next(folder for folder in (artifacts.root, *artifacts.root.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    # Of a table, who knows which part is text; the stage that writes the activations knows to the byte.
    is_certain = params.tokens is not None or corpus.suffix.lower() == ".txt"
    # Activations that an earlier run left may be these: they need no further room.
    left = _size(artifacts.activations_root) or 0
    limit = settings.cache_limit
    if limit is not None and is_certain and cached > max(limit * 1e9, left):
        raise Unprocessable(
            f"The activations of {tokens:,} tokens take {cached / 1e9:,.2f} GB, and SEESAE_CACHE_LIMIT allows "
            f"{limit:,g} GB. Raise the limit, use fewer `tokens`, or train with `stream`."
        )
    if disk is not None and is_certain and disk > free + left:
        raise Conflict(
            f"The activations of {tokens:,} tokens take {disk / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free under "
            f"{artifacts.root.name}. Free some space, use fewer `tokens`, or train with `stream`."
        )
    return Estimate(
        tokens=tokens, disk_bytes=disk, free_bytes=free, seconds=tokens / speed if tokens and speed else None
    )


def _size(path: Path) -> int | None:
    """Return the bytes of a file or of all files of a folder; None where there is neither."""
    try:
        if path.is_file():
            return path.stat().st_size
        return sum(_sizes(path)) if path.is_dir() else None
    except OSError:
        return None


def _sizes(folder: Path) -> Iterator[int]:
    for file in folder.rglob("*"):
        if file.is_file():
            yield file.stat().st_size
