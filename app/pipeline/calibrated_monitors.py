"""A monitor from two sides of texts: their readings, the candidates, and the row that keeps them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from app.errors import Conflict
from app.pipeline.builtin_sets import ensure_builtin_set
from app.pipeline.text_readings import TextReader, as_read
from app.queries.monitors import NewMonitor, put_monitor
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.actors import ensure_person_of_run
from app.services.builtin_sets import BUILTIN_SETS
from app.services.monitors import texts_of_side
from app.services.text_comparisons import split_side
from app.services.vectors import unpack_vector
from sae_core.models import HookPoint, LanguageModel
from sae_core.monitoring import (
    Calibration,
    Candidate,
    Comparison,
    Examples,
    FeatureDetector,
    Followed,
    Monitor,
    Performance,
    Source,
    cautions,
    compare_candidates,
    follow_texts,
    monitor_to_json,
)
from sae_core.progress import Progress

if TYPE_CHECKING:
    from app.pipeline.monitor import MonitorParams

TITLES = {
    "feature": "One SAE feature",
    "features-given": "The given SAE features",
    "probe-mean": "Linear probe, mean of raw activations",
    "probe-max": "Linear probe, maximum of raw activations",
    "probe-last": "Linear probe, raw activations of the last token",
    "direction-given": "The given direction",
    "diffmean": "Difference of means (DiffMean)",
    "words": "Bag of words",
    "length": "Length of the text",
}


async def make_monitor(run: RunContext, ctx: JobContext, params: "MonitorParams") -> dict[str, Any]:
    """Train, calibrate and compare all candidates, keep the monitor, and return the run's result.

    Raises:
        Conflict: a set was replaced meanwhile, or there is a monitor of this name.
        MonitorError: what is left of the texts is too little.
    """
    reader = await TextReader.open(run, ctx, params.sae, max_tokens=params.max_tokens)
    sides = {side: await _examples(run, ctx, reader, side) for side in params.sides}
    model, sae = await reader.load()
    detail = reader.detail
    source = Source(
        sae,
        HookPoint.parse(detail.hook),
        detail.slug,
        detail.weights_sha256,
        detail.model.name,
        detail.model.weights_sha256,
        frozenset(model.special_token_ids),
    )
    elsewhere = None
    if params.positive_elsewhere is not None and params.benign_elsewhere is not None:
        elsewhere = sides[params.positive_elsewhere][0], sides[params.benign_elsewhere][0]
    async with run.stage("calibrate") as progress:
        found = await run.in_thread(
            compare_candidates,
            sides[params.positive][0],
            sides[params.benign][0],
            source,
            partial(_follow, model, params.max_tokens),
            name=params.name,
            fpr=params.fpr,
            tokens=params.tokens,
            pool=params.pool,
            features=params.features,
            direction=None if params.direction is None else torch.tensor(unpack_vector(params.direction)),
            elsewhere=elsewhere,
            progress=progress,
        )
        chosen = found.candidate(choose(found, params))
        notes = list(dict.fromkeys(note for _, note, _ in sides.values() if note))
        figures = _figures(found, params, {side: own[2] for side, own in sides.items()}, notes)
        async with ctx.sessions.begin() as session:
            new = NewMonitor(
                name=params.name,
                sae_id=detail.id,
                sae=detail.slug,
                sae_sha256=detail.weights_sha256,
                model_id=detail.model.id,
                model=detail.model.name,
                candidate=chosen.name,
                threshold=chosen.calibration.threshold,
                fpr=params.fpr,
                tokens=params.tokens,
                pool=params.pool,
                keep_text=params.keep_text,
                figures=figures,
                files={one.name: monitor_to_json(one.monitor) for one in found.candidates if one.monitor is not None},
                owner_id=await ensure_person_of_run(session, run.created_by),
                run_id=run.run_id,
            )
            if not await put_monitor(session, new):
                raise Conflict(f"There is a monitor named {params.name} already. Choose another name, or delete it.")
    return _result(params, found, chosen, notes)


def _follow(
    model: LanguageModel, max_tokens: int, monitors: Sequence[Monitor], side: Examples, progress: Progress
) -> list[Followed]:
    """Score texts as a check, a scan and the endpoint do: each in a pass of its own."""
    return follow_texts(model, monitors, side.as_read, max_tokens=max_tokens, progress=progress)


def choose(found: Comparison, params: "MonitorParams") -> str:
    """Return the candidate that is asked for: the best of its kind by AUROC on the calibration texts."""
    if params.features is not None:
        return "features-given"
    if params.direction is not None:
        return "direction-given"
    match params.on:
        case "features":
            return found.best_features
        case "direction":
            return "diffmean"
        case "probe":
            probes = [one for one in found.candidates if one.name.startswith("probe")]
            return max(probes, key=lambda one: one.validation_auroc).name
        case None:
            return found.chosen


async def _examples(
    run: RunContext, ctx: JobContext, reader: TextReader, side: str
) -> tuple[Examples, str, tuple[str, str]]:
    """Return a side's texts as they were read, what has to be said of it, and its set with its hash."""
    name, _ = split_side(side)
    if name in BUILTIN_SETS:
        async with run.stage("fetch") as progress:
            await ensure_builtin_set(run, ctx, name, progress)
    async with ctx.sessions() as session:
        hash_, texts = await texts_of_side(session, side)
    read = await reader.read(name)
    if read.view.hash != hash_:
        raise Conflict(f"The text set {name} was replaced while it was read. Make the monitor again.")
    places = {text.number: place for place, text in enumerate(read.texts)}
    words: dict[str, int] = {}
    for text in texts:
        words.setdefault(" ".join(text.text.casefold().split()), text.number)
    once = set(words.values())
    kept = [text for text in texts if text.number in once]
    model, _ = await reader.load()
    chats, _ = as_read(model, read.texts)
    whole = Examples(read.reading, [text.text for text in read.texts], [text.split for text in read.texts], chats)
    return whole.choose([places[text.number] for text in kept]), read.note, (name, hash_)


def _figures(
    found: Comparison, params: "MonitorParams", sets: Mapping[str, tuple[str, str]], notes: list[str]
) -> dict[str, Any]:
    elsewhere = None if params.positive_elsewhere is None else [params.positive_elsewhere, params.benign_elsewhere]
    ranked = sorted(found.candidates, key=lambda one: -one.validation_auroc)
    return {
        "positive": params.positive,
        "benign": params.benign,
        "elsewhere": elsewhere,
        "hashes": dict(sets.values()),
        "max_tokens": params.max_tokens,
        "candidates": [_candidate(found, one) for one in ranked],
        "chosen_by_run": choose(found, params),
        "best": found.chosen,
        "best_features": found.best_features,
        "best_baseline": found.best_baseline,
        "baseline_wins": found.baseline_wins,
        "lead": found.lead,
        "lead_interval": list(found.lead_interval),
        "shared": len(found.shared),
        "notes": notes,
    }


def _candidate(found: Comparison, one: Candidate) -> dict[str, Any]:
    detector = None if one.monitor is None else one.monitor.detector
    weights: list[dict[str, Any]] = []
    if isinstance(detector, FeatureDetector):
        pairs = zip(detector.features, detector.weights.tolist(), strict=True)
        weights = [{"feature": feature, "weight": weight} for feature, weight in pairs]
        weights.sort(key=lambda pair: -abs(pair["weight"]))
    return {
        "name": one.name,
        "title": _title(one.name),
        "baseline": one.is_baseline,
        "runs": one.monitor is not None,
        "features": weights,
        "decoupled": isinstance(detector, FeatureDetector) and detector.definition == "decoupled",
        "validation_auroc": one.validation_auroc,
        "threshold": one.calibration.threshold,
        "calibration": _calibration(one.calibration),
        "live": _live(one),
        "test": _performance(one.test),
        "out_of_distribution": None if one.out_of_distribution is None else _performance(one.out_of_distribution),
        "cautions": cautions(found, one.name, _title),
        "suspects": len(one.suspects),
    }


def _title(name: str) -> str:
    return TITLES.get(name) or f"{name.rpartition('-')[2]} SAE features"


def _calibration(found: Calibration) -> dict[str, Any]:
    return {
        "texts": found.texts,
        "fpr": found.fpr,
        "exceeding": found.exceeding,
        "interval": list(found.interval),
    }


def _live(one: Candidate) -> dict[str, Any] | None:
    """Return what a candidate does on texts that are followed token by token; None if it does not run on a model."""
    if one.live is None or one.live_test is None:
        return None
    return {
        "threshold": one.live.threshold,
        **_calibration(one.live),
        "on_the_way": int((one.live.scores > one.calibration.threshold).sum()),
        "test": brief(_performance(one.live_test)),
    }


def _performance(found: Performance) -> dict[str, Any]:
    recall = [
        {
            "fpr": one.fpr,
            "recall": one.recall.value,
            "interval": list(one.recall.interval),
            "resolved": one.is_resolved,
        }
        for one in found.recall_at
    ]
    return {
        "positive": found.positive,
        "benign": found.benign,
        "auroc": found.auroc,
        "auroc_interval": list(found.auroc_interval),
        "log_auroc": found.log_auroc,
        "recall_at_fpr": recall,
        "recall": {**asdict(found.recall), "value": found.recall.value},
        "false_positives": {**asdict(found.false_positives), "value": found.false_positives.value},
        "roc": [[point.fpr, point.recall] for point in found.roc],
    }


def _result(params: "MonitorParams", found: Comparison, chosen: Candidate, notes: list[str]) -> dict[str, Any]:
    own = _candidate(found, chosen)
    return {
        "monitor": params.name,
        "sae": params.sae,
        "candidate": chosen.name,
        "title": own["title"],
        "features": [pair["feature"] for pair in own["features"]],
        "threshold": chosen.calibration.threshold,
        "calibration": own["calibration"],
        "live": own["live"],
        "test": brief(own["test"]),
        "out_of_distribution": own["out_of_distribution"] and brief(own["out_of_distribution"]),
        "baselines": [
            {"name": one.name, **brief(_performance(one.test))} for one in found.candidates if one.is_baseline
        ],
        "page": f"/monitors/{params.name}",
        "notes": [*own["cautions"], *notes],
    }


def brief(performance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a performance without its curve."""
    return {name: value for name, value in performance.items() if name != "roc"}
