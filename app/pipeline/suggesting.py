"""The work of `suggest`: one request per feature, several at a time, each answer kept and written as it comes."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Unprocessable
from app.queries import runs
from app.queries.examples import get_examples
from app.queries.features import get_feature
from app.queries.saes import SaeDetail
from app.queries.sql.locks import subject_lock
from app.queries.suggestions import ModelAnswer, Source, features_to_suggest, put_suggestion
from app.runs.context import RunContext, StageProgress
from app.runs.job_context import JobContext
from app.runs.spec import Estimate
from app.services import llm
from app.services.llm import EndpointUnusable, LlmClient, RequestFailed
from app.services.paid_answers import PaidAnswers
from app.services.plain_suggestions import plain_suggestion
from app.services.saes import find_sae
from app.services.suggestion_prompts import BadAnswer, Evidence, explain_prompt, parse_explanation, template_hash
from app.settings import Settings

if TYPE_CHECKING:
    from app.pipeline.suggest import SuggestParams

_SAMPLED_PROMPTS = 8
"""Prompts that are written for an estimate; the others are as long on average."""
_EXAMPLES = 10
"""Examples of each band to choose a prompt's from."""
_FAILURES_IN_A_ROW = 5
"""After so many requests without an answer, the endpoint is taken to be down."""
_LISTED_FAILURES = 20
_LOOK_SECONDS = 0.5
"""How often a run that waits for answers looks whether it was cancelled."""


@dataclass(slots=True)
class _Tally:
    """What came of the features so far."""

    suggested: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    unanswered_in_a_row: int = 0

    def note(self, feature: int, error: str | None) -> None:
        """Count a suggestion, or why there is none."""
        if error is None:
            self.suggested += 1
        else:
            self.failures[feature] = error


async def estimate(session: AsyncSession, settings: Settings, params: "SuggestParams") -> Estimate:
    """Return what the run costs at most: answers that were paid for before cost nothing.

    Raises:
        NotFound: there is no such SAE.
        Unprocessable: it has no index or no such feature, or no model is set.
    """
    sae = await find_sae(session, params.sae)
    features = await chosen_features(session, sae, params)
    if source_of(settings, params) == "statistics":
        return Estimate()
    llm.model_name(settings, params.model)
    sampled = features[:: max(1, len(features) // _SAMPLED_PROMPTS)][:_SAMPLED_PROMPTS]
    prompts = [explain_prompt(await _evidence(session, sae, feature)) for feature in sampled]
    each = sum(map(llm.estimate_tokens, prompts)) / max(1, len(prompts))
    tokens_in, tokens_out = round(each * len(features)), params.answer_tokens * len(features)
    return Estimate(
        tokens=tokens_in,
        requests=len(features),
        tokens_out=tokens_out,
        dollars=llm.price(settings, tokens_in, tokens_out),
    )


def source_of(settings: Settings, params: "SuggestParams") -> Source:
    """Return who suggests."""
    return params.source or ("statistics" if settings.llm_url is None else "model")


async def chosen_features(session: AsyncSession, sae: SaeDetail, params: "SuggestParams") -> list[int]:
    """Return the features that the parameters name.

    Raises:
        Unprocessable: the SAE has no index, or lacks one of them.
    """
    if sae.index is None:
        raise Unprocessable(f"{sae.slug} has no index, so there are no examples to suggest from: run seesae index.")
    beyond = [feature for feature in params.features or () if feature >= sae.d_sae]
    if beyond:
        raise Unprocessable(f"{sae.slug} has no feature {beyond[0]}: its features are 0 to {sae.d_sae - 1}.")
    return list(params.features or await features_to_suggest(session, sae, params.sample))


async def suggest(run: RunContext, ctx: JobContext, params: "SuggestParams") -> dict[str, Any]:
    """Suggest labels of the features that `params` choose, and return the result of the run.

    Raises:
        Conflict: another run asks for the same SAE.
        EndpointUnusable: the endpoint refuses the key or the model, or does not answer any more.
    """
    async with ctx.sessions.begin() as session:
        sae = await find_sae(session, params.sae)
        await runs.set_sae(session, run.run_id, sae.id)
        features = await chosen_features(session, sae, params)
        cost = await estimate(session, ctx.settings, params)
    source = source_of(ctx.settings, params)
    own: dict[str, Any] = {"sae": sae.slug, "source": source, "features": len(features)}
    if params.estimate:
        async with run.stage("suggest"):
            return {**own, "estimate": _estimated(cost)}
    async with subject_lock(ctx.engine, f"suggestions of {sae.slug}") as held, run.stage("suggest") as progress:
        if not held:
            raise Conflict(f"Another run makes suggestions for {sae.slug} right now. Start this one after it.")
        if source == "statistics":
            tally = await _from_statistics(run, ctx, sae, features, progress)
            return {**own, **_summary(tally)}
        async with _asking(ctx, params) as answers:
            run.retitle("suggest", f"Ask {answers.model}: at most {_in_words(cost)}")
            tally = await _from_model(run, ctx, sae, features, answers, params, progress)
    return {
        **own,
        "model": answers.model,
        **_summary(tally),
        "requests": answers.paid,
        "from_cache": answers.kept,
        "tokens_in": answers.tokens_in,
        "tokens_out": answers.tokens_out,
        "dollars": llm.price(ctx.settings, answers.tokens_in, answers.tokens_out),
    }


@asynccontextmanager
async def _asking(ctx: JobContext, params: "SuggestParams") -> AsyncIterator[PaidAnswers]:
    async with LlmClient(ctx.settings, llm.model_name(ctx.settings, params.model)) as client:
        yield PaidAnswers(ctx.sessions, client, params.seed)


async def _from_statistics(
    run: RunContext, ctx: JobContext, sae: SaeDetail, features: Sequence[int], progress: StageProgress
) -> _Tally:
    """Write a plain sentence for each feature."""
    tally = _Tally()
    for done, feature in enumerate(features):
        progress(done, len(features))
        async with ctx.sessions.begin() as session:
            detail = await get_feature(session, sae, feature)
            text = plain_suggestion(detail) if detail else None
            if text is None:
                tally.note(feature, "It was never active, or none of its tokens can be named.")
                continue
            key = hashlib.sha256(text.encode()).hexdigest()
            await _put(session, run, sae, feature, key, text=text)
            tally.note(feature, None)
    progress(len(features), len(features))
    return tally


async def _from_model(
    run: RunContext,
    ctx: JobContext,
    sae: SaeDetail,
    features: Sequence[int],
    answers: PaidAnswers,
    params: "SuggestParams",
    progress: StageProgress,
) -> _Tally:
    """Ask about each feature; an answer that cannot be used is written as that, and the others go on."""
    tally = _Tally()

    async def one(feature: int) -> None:
        async with ctx.sessions() as session:
            prompt = explain_prompt(await _evidence(session, sae, feature))
        text = error = None
        try:
            answer = await answers.ask(prompt, max_tokens=params.answer_tokens)
        except RequestFailed as failed:
            error = str(failed)
            tally.unanswered_in_a_row += 1
            if tally.unanswered_in_a_row >= _FAILURES_IN_A_ROW:
                raise EndpointUnusable(
                    f"{error} This happened to {_FAILURES_IN_A_ROW} features in a row. Start the run again once the "
                    "endpoint answers: what was answered is kept."
                ) from None
        else:
            tally.unanswered_in_a_row = 0
            text, error = _read(answer)
        tally.note(feature, error)
        key = answers.key(prompt, params.answer_tokens)
        async with ctx.sessions.begin() as session:
            await _put(
                session,
                run,
                sae,
                feature,
                key,
                model=answers.model,
                prompt=template_hash("explain"),
                text=text,
                error=error,
            )

    await for_each(features, one, limit=ctx.settings.llm_concurrency, progress=progress)
    return tally


def _read(answer: ModelAnswer) -> tuple[str | None, str | None]:
    """Return the explanation in an answer, or why there is none."""
    try:
        return parse_explanation(answer.text, finished=answer.finished), None
    except BadAnswer as bad:
        return None, str(bad)


async def _put(
    session: AsyncSession,
    run: RunContext,
    sae: SaeDetail,
    feature: int,
    key: str,
    *,
    text: str | None,
    error: str | None = None,
    model: str = "",
    prompt: str = "",
) -> None:
    assert sae.index is not None
    await put_suggestion(
        session,
        sae_id=sae.id,
        feature=feature,
        key=key,
        source="model" if model else "statistics",
        model=model,
        prompt=prompt,
        text=text,
        error=error,
        index_id=sae.index.id,
        run_id=run.run_id,
    )


async def _evidence(session: AsyncSession, sae: SaeDetail, feature: int) -> Evidence:
    detail = await get_feature(session, sae, feature)
    if detail is None:
        raise Unprocessable(f"Feature {feature} is not in the export that {sae.slug} was imported from.")
    examples = await get_examples(session, sae, feature, limit=_EXAMPLES, with_documents=False)
    return Evidence(detail, examples)


async def for_each(
    items: Sequence[int], do: Callable[[int], Awaitable[None]], *, limit: int, progress: StageProgress
) -> None:
    """Call `do` for all items, `limit` at a time; the first error, or the end of the run, cancels the others."""
    waiting = iter(items)
    running: set[asyncio.Task[None]] = set()
    done = 0
    try:
        while True:
            while len(running) < limit and (item := next(waiting, None)) is not None:
                running.add(asyncio.ensure_future(do(item)))
            progress(done, len(items))
            if not running:
                return
            ended, running = await asyncio.wait(running, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            done += len(ended)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _summary(tally: _Tally) -> dict[str, Any]:
    listed = list(tally.failures.items())[:_LISTED_FAILURES]
    notes = [f"Feature {feature}: {why}" for feature, why in listed]
    if len(tally.failures) > len(listed):
        notes.append(f"And {len(tally.failures) - len(listed):,} more, as their pages say.")
    return {"suggested": tally.suggested, "failed": len(tally.failures), **({"notes": notes} if notes else {})}


def _estimated(cost: Estimate) -> dict[str, Any]:
    return {
        "requests": cost.requests or 0,
        "tokens_in": cost.tokens or 0,
        "tokens_out": cost.tokens_out or 0,
        "dollars": cost.dollars,
    }


def _in_words(cost: Estimate) -> str:
    money = "" if cost.dollars is None else f", ${cost.dollars:.2f}"
    return f"{cost.requests:,} requests, about {cost.tokens:,} tokens in and {cost.tokens_out:,} out{money}"
