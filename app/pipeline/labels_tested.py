"""The work of `test-labels`: a model answers blind tests of people's labels, which are kept as those of people are."""

import dataclasses
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, NoWeights, Unprocessable
from app.pipeline.concurrent import for_each
from app.pipeline.model_tester import (
    KINDS,
    REQUESTS_PER_LABEL,
    TOKENS_PER_REQUEST,
    Kind,
    ModelTester,
    Tested,
    mean_scores,
    open_store,
)
from app.queries import runs
from app.queries.blind_tests import LabelToTest, labels_to_test
from app.queries.label_sets import find_set
from app.queries.people import ensure_name, find_name
from app.queries.saes import SaeDetail
from app.queries.suggestions import suggested_texts
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.spec import Estimate
from app.services import llm
from app.services.blind_tests import keep_tested
from app.services.labels import MAX_NAME
from app.services.llm import LlmClient, RequestFailed
from app.services.paid_answers import PaidAnswers
from app.services.saes import find_sae
from app.services.suggestion_prompts import BadAnswer
from app.settings import Settings

if TYPE_CHECKING:
    from app.pipeline.label_tests import LabelTestsParams

_LISTED_FAILURES = 20


def tester_name(model: str) -> str:
    """Return the name under which a model stands beside people who test."""
    mark = " (model)"
    return f"{model[: MAX_NAME - len(mark)]}{mark}"


async def estimate(session: AsyncSession, settings: Settings, params: "LabelTestsParams") -> Estimate:
    """Return what the run costs at most.

    Raises:
        NotFound: there is no such SAE, label set or label.
        NoWeights: the SAE was imported as statistics only.
        Unprocessable: it has no index, or no model is set.
    """
    model = llm.model_name(settings, params.model)
    _, labels = await _labels(session, params, model)
    requests = REQUESTS_PER_LABEL * len(labels)
    tokens_in, tokens_out = requests * TOKENS_PER_REQUEST, requests * params.answer_tokens
    dollars = llm.price(settings, tokens_in, tokens_out)
    return Estimate(tokens=tokens_in, requests=requests, tokens_out=tokens_out, dollars=dollars)


async def _labels(session: AsyncSession, params: "LabelTestsParams", model: str) -> tuple[SaeDetail, list[LabelToTest]]:
    """Return the SAE, and those of its labels that the parameters name and this model has not tested yet."""
    sae = await find_sae(session, params.sae)
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    if sae.index is None:
        raise Unprocessable(f"{sae.slug} has no index, and so no text to test on: run seesae index.")
    label_set = await find_set(session, sae.id, params.label_set)
    if label_set is None:
        raise NotFound(f"{sae.slug} has no label set “{params.label_set}”.")
    tester = await find_name(session, tester_name(model))
    labels = await labels_to_test(session, label_set.id, tester, KINDS)
    if params.labels is None:
        return sae, [label for label in labels if label.untested]
    known = {label.id: label for label in labels}
    if missing := [number for number in params.labels if number not in known]:
        raise NotFound(f"Label {missing[0]} is not a submitted label of the set “{label_set.name}”.")
    return sae, [known[number] for number in params.labels if known[number].untested]


async def test_labels(run: RunContext, ctx: JobContext, params: "LabelTestsParams") -> dict[str, Any]:
    """Test labels, keep each result, and return the result of the run.

    Raises:
        EndpointUnusable: the endpoint refuses the key or the model, or does not answer any more.
        Unavailable: the activations of the index are not on this machine.
    """
    model = llm.model_name(ctx.settings, params.model)
    async with ctx.sessions.begin() as session:
        sae, labels = await _labels(session, params, model)
        await runs.set_sae(session, run.run_id, sae.id)
        person_id = await ensure_name(session, tester_name(model))
        suggested = await suggested_texts(session, sae.id, range(sae.d_sae))
    others = {feature: view.text for feature, view in suggested.items() if view.text}
    others |= {label.feature: label.explanation for label in labels}
    failures: dict[int, str] = {}
    async with run.stage("test") as progress, LlmClient(ctx.settings, model) as client:
        answers = PaidAnswers(ctx.sessions, client, params.seed)
        store = await open_store(run, ctx, sae)
        tester = ModelTester(ctx, sae, store, answers, params.answer_tokens, params.seed)

        async def one(place: int) -> dict[Kind, Tested]:
            label = labels[place]
            floor = tester.random_other(others, label.feature, label.explanation)
            tests: dict[Kind, Tested] = {}
            for kind in label.untested:
                try:
                    tests[kind] = await tester.test(label.feature, kind, label.explanation, floor)
                except (BadAnswer, RequestFailed, Unprocessable) as failed:
                    failures[label.id] = str(failed)
                    continue
                await _keep(ctx, sae, label, kind, tests[kind], person_id, params.seed)
            return tests

        tests = await for_each(range(len(labels)), one, limit=ctx.settings.llm_concurrency, progress=progress)
    notes = [f"Label {number}: {why}" for number, why in sorted(failures.items())[:_LISTED_FAILURES]]
    return {
        "sae": sae.slug,
        "model": model,
        "labels": len(labels),
        "tested": len(labels) - len(failures),
        "failed": len(failures),
        **mean_scores(tests),
        "requests": answers.paid,
        "from_cache": answers.kept,
        "tokens_in": answers.tokens_in,
        "tokens_out": answers.tokens_out,
        "dollars": llm.price(ctx.settings, answers.tokens_in, answers.tokens_out),
        **({"notes": notes} if notes else {}),
    }


async def _keep(
    ctx: JobContext, sae: SaeDetail, label: LabelToTest, kind: Kind, tested: Tested, person_id: int, seed: int
) -> None:
    """Keep a test with its answers, as one."""
    floor = None if tested.floor is None else dataclasses.asdict(tested.floor.balanced_accuracy)
    async with ctx.sessions.begin() as session:
        await keep_tested(
            session,
            sae,
            label,
            kind,
            tested.items,
            person_id=person_id,
            answers=tested.said,
            confidences=tested.ratings,
            seed=seed,
            floor=floor,
        )
