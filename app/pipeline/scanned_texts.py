"""Texts that a monitor scores by a run, in parts that are stored once."""

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.stats import binomtest

from app.errors import Conflict
from app.pipeline.identities import model_source
from app.pipeline.sources import fetch_packages, read_model
from app.queries import runs
from app.queries.models import get_model, get_tokens
from app.queries.monitors import MonitorView, add_scores, list_parts, totals_of_run
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.inference_messages import ChatMessage, MonitorScore, ScoredText
from app.services.monitor_checks import Text, new_alert, words_of
from app.services.monitors import find_monitor, texts_of_side, usable_file
from app.services.text_files import read_text_file
from app.services.tokens import plain
from sae_core.models import LanguageModel
from sae_core.monitoring import Monitor, check_model, monitor_from_json, score_texts

if TYPE_CHECKING:
    from app.pipeline.monitor_scan import MonitorScanParams

PART = 32
"""Texts that are scored between two writes."""


async def scan(run: RunContext, ctx: JobContext, params: "MonitorScanParams") -> dict[str, Any]:
    """Score the texts, keep scores and alerts, and return the run's result.

    Raises:
        NotFound: the monitor or the set is gone, perhaps since the scan began.
        Conflict: the monitor is paused, its model is gone or has changed, or the texts are not those that the run began
            with.
    """
    async with ctx.sessions() as session:
        view = await find_monitor(session, params.monitor)
        monitor = monitor_from_json(dict(await usable_file(session, view)), view.name)
        texts = await _texts(session, params)
        done = await list_parts(session, run.run_id)
    await _refuse_other_texts(run, ctx, params, texts)
    model = await _load(run, ctx, view)
    check_model(monitor, model)
    async with run.stage("scan") as progress:
        progress(0, len(texts))
        for start in range(0, len(texts), PART):
            part = texts[start : start + PART]
            if start not in done:
                found = await run.in_thread(_score, model, monitor, part, view.figures["max_tokens"])
                await _keep(ctx, run.run_id, view, part, found, start)
            progress(min(start + PART, len(texts)), len(texts))
    async with ctx.sessions() as session:
        scored, alerts = await totals_of_run(session, run.run_id)
    interval = binomtest(alerts, scored).proportion_ci(method="exact")
    return {
        "monitor": view.name,
        "sae": view.sae,
        "texts": scored,
        "alerts": alerts,
        "rate": alerts / scored,
        "interval": [float(interval.low), float(interval.high)],
        "rate_calibrated": view.fpr,
        "page": f"/monitors/{view.name}?run={run.run_id}",
    }


async def _texts(session: Any, params: "MonitorScanParams") -> list[tuple[str, Text]]:
    """Return the texts, each with its place in words."""
    if params.textset is not None:
        _, items = await texts_of_side(session, params.textset)
        name = params.textset.partition(":")[0]
        return [
            (
                f"{name} {item.number}",
                item.text if item.chat is None else [ChatMessage(**turn) for turn in item.chat],
            )
            for item in items
        ]
    path = Path(params.file or "")
    texts = await asyncio.to_thread(read_text_file, path)
    return [(f"{path.name} {number}", text) for number, text in enumerate(texts)]


async def _refuse_other_texts(
    run: RunContext, ctx: JobContext, params: "MonitorScanParams", texts: list[tuple[str, Text]]
) -> None:
    """Note the texts with the run, or compare them with those noted when it began."""
    subject = f"texts {await asyncio.to_thread(_hash, texts)}"
    async with ctx.sessions.begin() as session:
        noted = {use for use in await runs.uses_of(session, run.run_id) if use.startswith("texts ")}
        if noted and subject not in noted:
            raise Conflict(
                f"The texts of {params.texts} are no longer those that this scan began with, so its figures would mix "
                "both. Scan them by a new run."
            )
        await runs.note_use(session, run.run_id, subject)


def _hash(texts: list[tuple[str, Text]]) -> str:
    found = hashlib.sha256()
    for place, text in texts:
        said = text if isinstance(text, str) else [turn.model_dump() for turn in text]
        found.update(repr((place, said)).encode("utf-8", "surrogatepass"))
    return found.hexdigest()


async def _load(run: RunContext, ctx: JobContext, view: MonitorView) -> LanguageModel:
    async with ctx.sessions.begin() as session:
        assert view.model_id is not None  # usable_file refuses it
        row = await get_model(session, view.model_id)
        assert row is not None
        await runs.note_use(session, run.run_id, f"model {row.id}")
    source, cache = model_source(row), ctx.settings.home / "cache"
    async with run.stage("fetch") as progress:
        await run.in_thread(fetch_packages, source, None, cache, progress)
    async with run.stage("load"):
        with run.waiting("load", "its weights") as waiting:
            model = await run.in_thread(
                read_model,
                source,
                device=ctx.settings.device,
                cache=cache,
                converted=ctx.artifacts.models,
                waiting=waiting,
            )
        if model.weights_sha256 != row.weights_sha256:
            raise Conflict(
                f"The model at {model.source} is no longer the one that the monitor {view.name} was made on. Put the "
                "former files back, or make the monitor again."
            )
    return model


def _score(model: LanguageModel, monitor: Monitor, part: list[tuple[str, Text]], max_tokens: int) -> list[ScoredText]:
    read = [_readable(model, text) for _, text in part]
    found = score_texts(model, [monitor], read, max_tokens=max_tokens)
    return [
        ScoredText(
            token_ids=text.token_ids,
            scores=[
                MonitorScore(
                    score=own.score,
                    alert=own.alert,
                    positions=own.positions.tolist(),
                    values=own.values.tolist(),
                    running=own.running.tolist(),
                    channels=[],
                )
                for own in text.scores
            ],
        )
        for text in found
    ]


def _readable(model: LanguageModel, text: Text) -> Any:
    """Return a text as `score_texts` takes it; chats are plain texts to a model without a chat format."""
    if isinstance(text, str) or not model.has_chat_format:
        return words_of(text)
    return [turn.model_dump() for turn in text]


async def _keep(
    ctx: JobContext, run_id: int, view: MonitorView, part: list[tuple[str, Text]], found: list[ScoredText], start: int
) -> None:
    fired = [(own, scored) for own, scored in zip(part, found, strict=True) if scored.scores[0].alert]
    async with ctx.sessions.begin() as session:
        assert view.model_id is not None
        ids = {token for _, scored in fired for token in scored.token_ids} if view.keep_text else set()
        names = {token: plain(info.bytes) for token, info in (await get_tokens(session, view.model_id, ids)).items()}
        alerts = [
            new_alert(view, text, scored, names, source="scan", run_id=run_id, place=place)
            for (place, text), scored in fired
        ]
        scores = [scored.scores[0].score for scored in found]
        await add_scores(
            session, view.id, scores, alerts, source="scan", run_id=run_id, part=start, candidate=view.candidate
        )
