"""The work of `suggest`: one request per feature, several at a time, each answer kept and written as it comes."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Unavailable, Unprocessable
from app.pipeline.concurrent import for_each
from app.pipeline.model_tester import REQUESTS_PER_LABEL, TOKENS_PER_REQUEST, ModelTester, open_store
from app.pipeline.suggestion_scores import Made, score_suggestions
from app.queries import runs
from app.queries.examples import get_examples
from app.queries.features import get_feature
from app.queries.saes import SaeDetail
from app.queries.sql.locks import subject_lock
from app.queries.suggestions import NewSuggestion, Source, features_to_suggest, put_suggestion
from app.runs.context import RunContext, StageProgress
from app.runs.job_context import JobContext
from app.runs.spec import Estimate
from app.services import llm
from app.services.llm import LlmClient, RequestFailed
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
_LISTED_FAILURES = 20


@dataclass(slots=True)
class _Tally:
    """Results of the features so far."""

    made: dict[int, Made] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


async def estimate(
    session: AsyncSession, settings: Settings, params: "SuggestParams", features: Sequence[int] | None = None
) -> Estimate:
    """Return what the run costs at most: answers that were paid for before cost nothing.

    `features` are those that another run chose, instead of those that `params` choose.

    Raises:
        NotFound: there is no such SAE.
        Unprocessable: it has no index or no such feature, or no model is set.
    """
    sae = await find_sae(session, params.sae)
    features = await chosen_features(session, sae, params) if features is None else features
    by_model = source_of(settings, params) == "model"
    tests = REQUESTS_PER_LABEL * len(features) if params.score and sae.has_weights and settings.llm_url else 0
    if not by_model and not tests:
        return Estimate()
    llm.model_name(settings, params.model)
    requests, tokens_in = tests, tests * TOKENS_PER_REQUEST
    if by_model:
        sampled = features[:: max(1, len(features) // _SAMPLED_PROMPTS)][:_SAMPLED_PROMPTS]
        prompts = [explain_prompt(await _evidence(session, sae, feature)) for feature in sampled]
        requests += len(features)
        tokens_in += round(sum(map(llm.estimate_tokens, prompts)) / max(1, len(prompts)) * len(features))
    tokens_out = params.answer_tokens * requests
    return Estimate(
        tokens=tokens_in,
        requests=requests,
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


async def suggest(
    run: RunContext, ctx: JobContext, params: "SuggestParams", features: Sequence[int] | None = None
) -> dict[str, Any]:
    """Suggest labels of the features that `params` choose, or of these, test them, and return the result of the run.

    Raises:
        Conflict: another run asks for the same SAE.
        EndpointUnusable: the endpoint refuses the key or the model, or does not answer any more.
    """
    async with ctx.sessions.begin() as session:
        sae = await find_sae(session, params.sae)
        await runs.set_sae(session, run.run_id, sae.id)
        features = await chosen_features(session, sae, params) if features is None else features
        cost = await estimate(session, ctx.settings, params, features)
    own: dict[str, Any] = {"sae": sae.slug, "source": source_of(ctx.settings, params), "features": len(features)}
    if params.estimate:
        async with run.stage("suggest"):
            pass
        return {**own, **_estimated(cost)}
    async with AsyncExitStack() as stack:
        if not await stack.enter_async_context(subject_lock(ctx.engine, f"suggestions of {sae.slug}")):
            raise Conflict(f"Another run makes suggestions for {sae.slug} right now. Start this one after it.")
        answers = None
        if cost.requests:
            client = LlmClient(ctx.settings, llm.model_name(ctx.settings, params.model))
            answers = PaidAnswers(ctx.sessions, await stack.enter_async_context(client), params.seed)
        tally = await _make(run, ctx, sae, features, answers, params, cost)
        scores: dict[str, Any] = {}
        if params.score:
            async with run.stage("score") as progress:
                if answers is not None:
                    scores = await _score(run, ctx, sae, tally.made, answers, params, progress)
        if answers is None:
            return {**own, **_summary(tally)}
    summary = _summary(tally)
    notes = [*summary.pop("notes", ()), *scores.pop("notes", ())]
    return {
        **own,
        "model": answers.model,
        **summary,
        **scores,
        "requests": answers.paid,
        "from_cache": answers.kept,
        "tokens_in": answers.tokens_in,
        "tokens_out": answers.tokens_out,
        "dollars": llm.price(ctx.settings, answers.tokens_in, answers.tokens_out),
        **({"notes": notes} if notes else {}),
    }


async def _score(
    run: RunContext,
    ctx: JobContext,
    sae: SaeDetail,
    made: Mapping[int, Made],
    answers: PaidAnswers,
    params: "SuggestParams",
    progress: StageProgress,
) -> dict[str, Any]:
    """Test the suggestions, where there is text to test them on."""
    try:
        store = await open_store(run, ctx, sae)
    except Unavailable as error:
        return {"notes": [f"The suggestions were not tested. {error}"]}
    tester = ModelTester(ctx, sae, store, answers, params.answer_tokens, params.seed)
    return await score_suggestions(tester, made, progress)


async def _make(
    run: RunContext,
    ctx: JobContext,
    sae: SaeDetail,
    features: Sequence[int],
    answers: PaidAnswers | None,
    params: "SuggestParams",
    cost: Estimate,
) -> _Tally:
    """Make a suggestion for each feature; one that cannot be made is written as that, and the others go on."""
    by_model = source_of(ctx.settings, params) == "model"
    async with run.stage("suggest") as progress:
        if answers is not None:
            run.retitle("suggest", f"Ask {answers.model}: at most {_in_words(cost)}")

        async def one(feature: int) -> tuple[int, NewSuggestion]:
            if by_model and answers is not None:
                made = await _by_model(ctx, sae, feature, answers, params.answer_tokens)
            else:
                made = await _from_statistics(ctx, sae, feature)
            async with ctx.sessions.begin() as session:
                return await put_suggestion(session, sae, feature, made, run_id=run.run_id), made

        all_made = await for_each(features, one, limit=ctx.settings.llm_concurrency, progress=progress)
    tally = _Tally()
    for feature, (number, made) in zip(features, all_made, strict=True):
        if made.text is None:
            tally.failures[feature] = made.error or ""
        else:
            tally.made[feature] = Made(number, made.text)
    return tally


async def _from_statistics(ctx: JobContext, sae: SaeDetail, feature: int) -> NewSuggestion:
    """Return a plain sentence about a feature."""
    async with ctx.sessions() as session:
        detail = await get_feature(session, sae, feature)
    text = plain_suggestion(detail) if detail else None
    if text is None:
        return NewSuggestion("nothing", "statistics", error="It was never active, or none of its tokens can be named.")
    return NewSuggestion(hashlib.sha256(text.encode()).hexdigest(), "statistics", text=text)


async def _by_model(
    ctx: JobContext, sae: SaeDetail, feature: int, answers: PaidAnswers, max_tokens: int
) -> NewSuggestion:
    """Return what the model says about a feature."""
    async with ctx.sessions() as session:
        prompt = explain_prompt(await _evidence(session, sae, feature))
    text = error = None
    try:
        answer = await answers.ask(prompt, max_tokens=max_tokens)
        text = parse_explanation(answer.text, finished=answer.finished)
    except (RequestFailed, BadAnswer) as failed:
        error = str(failed)
    key = answers.key(prompt, max_tokens)
    return NewSuggestion(key, "model", answers.model, template_hash("explain"), text, error)


async def _evidence(session: AsyncSession, sae: SaeDetail, feature: int) -> Evidence:
    detail = await get_feature(session, sae, feature)
    if detail is None:
        raise Unprocessable(f"Feature {feature} is not in the export that {sae.slug} was imported from.")
    examples = await get_examples(session, sae, feature, limit=_EXAMPLES, with_documents=False)
    return Evidence(detail, examples)


def _summary(tally: _Tally) -> dict[str, Any]:
    listed = list(tally.failures.items())[:_LISTED_FAILURES]
    notes = [f"Feature {feature}: {why}" for feature, why in listed]
    if len(tally.failures) > len(listed):
        notes.append(f"And {len(tally.failures) - len(listed):,} more, as their pages say.")
    return {"suggested": len(tally.made), "failed": len(tally.failures), **({"notes": notes} if notes else {})}


def _estimated(cost: Estimate) -> dict[str, Any]:
    return {
        "estimated_requests": cost.requests or 0,
        "estimated_tokens_in": cost.tokens or 0,
        "estimated_tokens_out": cost.tokens_out or 0,
        "estimated_dollars": cost.dollars,
    }


def _in_words(cost: Estimate) -> str:
    money = "" if cost.dollars is None else f", ${cost.dollars:.2f}"
    return f"{cost.requests:,} requests, about {cost.tokens:,} tokens in and {cost.tokens_out:,} out{money}"
