"""Suggestions by a local server of the protocol: failures, cancelling, and a kill without paying twice."""

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from app.errors import Conflict, Unprocessable
from app.pipeline import concurrent
from app.pipeline.suggest import SUGGEST, SuggestParams
from app.queries.features import get_feature
from app.queries.sql.locks import subject_lock
from app.queries.suggestions import list_suggestions, suggested_texts
from app.runs.context import RunCancelled
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.runs.submit import cancel_run
from app.services.llm import EndpointUnusable
from app.services.plain_suggestions import plain_suggestion
from app.tables import Label, LlmAnswer, Suggestion
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.blind import keep_store
from tests.factories import Synthetic, add_label, make_sae
from tests.llm_server import LlmServer, Reply, completion, llm_server, top_word, word_finder


def asking(ctx: JobContext, server: LlmServer, **changes: Any) -> JobContext:
    own = {"llm_url": server.url, "llm_model": "small", "llm_api_key": SecretStr("sk-secret"), **changes}
    return replace(ctx, settings=ctx.settings.model_copy(update=own))


def numbered(server_requests: list[dict[str, Any]]) -> Reply:
    return completion(f"Explanation: meaning {len(server_requests)}")


async def test_a_model_suggests_and_a_repeated_run_pays_nothing(ctx: JobContext, made: Synthetic) -> None:
    async with ctx.sessions.begin() as session:
        label = await add_label(session, made.sae, 1, "Biology")
    params = SuggestParams(sae=made.sae.slug, sample=6, score=False)
    async with llm_server(lambda _request: numbered(server.requests)) as server:
        own = asking(ctx, server, llm_price_in=1.0, llm_price_out=10.0)
        run = await run_to_end(own, "suggest", params)
        assert run.result is not None
        assert {name: run.result[name] for name in ("source", "model", "features", "suggested", "failed")} == {
            "source": "model", "model": "small", "features": 6, "suggested": 6, "failed": 0,
        }  # fmt: skip
        assert (run.result["requests"], run.result["from_cache"], run.result["tokens_in"]) == (6, 0, 600)
        assert run.result["dollars"] == pytest.approx(600e-6 + 60e-5)
        assert "at most 6 requests" in run.stages[0].title
        again = await run_to_end(own, "suggest", params.model_copy(update={"sample": 7}))
        assert again.result is not None
        assert (again.result["requests"], again.result["from_cache"]) == (1, 6)
        another = await run_to_end(own, "suggest", params.model_copy(update={"seed": 1, "sample": 1, "score": True}))
        assert another.result is not None
        assert (another.result["requests"], another.result["from_cache"]) == (1, 0)
        assert "not tested. The activations of its index are not on this machine" in another.result["notes"][0]
    async with ctx.sessions() as session:
        texts = await suggested_texts(session, made.sae.id, range(24))
        assert 1 not in texts, "a labelled feature needs no suggestion"
        assert len(texts) == 7
        labels = list(await session.scalars(select(Label.id)))
        assert labels == [label.id], "suggestions are never labels"
        (shown, *older) = await list_suggestions(session, made.sae.id, next(iter(texts)))
    assert (shown.source, shown.model, older) == ("model", "small", [])
    assert shown.text is not None
    assert shown.text.startswith("meaning ")
    assert len(shown.prompt) == 12
    prompt = server.requests[0]["messages"][1]["content"]
    assert prompt.count("\n") == prompt.count('{"band": ') + 4, "every example is one line"
    assert "<<" in prompt
    assert "sk-secret" not in json.dumps(server.requests)


async def test_bad_answers_are_stated_for_their_feature_and_the_others_go_on(ctx: JobContext, made: Synthetic) -> None:
    answers = iter(
        [
            completion("I cannot help with that."),
            completion("Explanation: half an ans", finish="length"),
            completion("Explanation: " + "long " * 100),
            completion("Explanation: no pattern."),
            completion(None),
            Reply(b"<html>502</html>"),
            Reply.error(400, "content filter"),
            completion("<think>Explanation: wrong</think>\n**Explanation:** `<script>alert(1)</script>` http://evil.example"),
            completion("Explanation: \u202etxet\u202c neddih\x00\x07"),
        ]
    )  # fmt: skip
    async with llm_server(lambda _request: next(answers)) as server:
        own = asking(ctx, server, llm_concurrency=1)
        run = await run_to_end(own, "suggest", SuggestParams(sae=made.sae.slug, features=tuple(range(9)), score=False))
    assert run.state == "done"
    assert run.result is not None
    assert (run.result["suggested"], run.result["failed"]) == (2, 7)
    assert "Feature 0: The answer does not have the form" in run.result["notes"][0]
    async with ctx.sessions() as session:
        found = [(await list_suggestions(session, made.sae.id, feature))[0] for feature in range(9)]
    assert [row.text for row in found[:7]] == [None] * 7
    assert [row.error for row in found[1:5]] == [
        "The answer was cut off at its limit of tokens.",
        "The answer is longer than 300 characters.",
        "The model sees no pattern.",
        "Empty answer.",
    ]
    assert "content filter" in str(found[6].error)
    assert found[7].text == "<script>alert(1)</script>` http://evil.example"
    assert found[8].text == "txet neddih"


async def test_an_endpoint_that_is_down_or_refuses_ends_the_run_in_one_sentence(
    ctx: JobContext, made: Synthetic
) -> None:
    params = SuggestParams(sae=made.sae.slug, sample=20, score=False)
    async with llm_server(lambda _request: Reply.error(401, "no such key sk-secret")) as server:
        with pytest.raises(EndpointUnusable, match="SEESAE_LLM_API_KEY"):
            await run_to_end(asking(ctx, server), "suggest", params)
        server.answer = lambda _request: Reply.error(422, "broken")
        server.requests.clear()
        with pytest.raises(EndpointUnusable, match="5 requests in a row"):
            await run_to_end(asking(ctx, server, llm_concurrency=1), "suggest", params)
        assert len(server.requests) == 5
        async with ctx.sessions() as session:
            failed = await run_row(ctx, 1)
            assert await session.scalar(select(LlmAnswer.key)) is None
    assert failed.state == "failed"
    assert failed.error is not None
    assert "sk-secret" not in failed.error


async def test_a_cancelled_run_stops_asking_and_keeps_what_came(
    ctx: JobContext, made: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrent, "LOOK_SECONDS", 0.02)

    async def third_hangs(_request: dict[str, Any]) -> Reply:
        if len(server.requests) > 2:
            async with ctx.sessions.begin() as session:
                await cancel_run(session, 1)
            await asyncio.Event().wait()
        return numbered(server.requests)

    async with llm_server(third_hangs) as server:
        own = asking(ctx, server, llm_concurrency=1)
        run_id = await submit(own, "suggest", SuggestParams(sae=made.sae.slug, sample=8, score=False))
        with pytest.raises(RunCancelled):
            await execute(own, run_id)
    assert len(server.requests) == 3
    async with ctx.sessions() as session:
        assert len(list(await session.scalars(select(Suggestion.text)))) == 2


async def test_one_run_at_a_time_asks_for_an_sae(ctx: JobContext, made: Synthetic) -> None:
    async with subject_lock(ctx.engine, f"suggestions of {made.sae.slug}") as held:
        assert held
        with pytest.raises(Conflict, match="Another run"):
            await run_to_end(ctx, "suggest", SuggestParams(sae=made.sae.slug))


async def test_without_a_model_sentences_come_from_statistics(ctx: JobContext, made: Synthetic) -> None:
    run = await run_to_end(ctx, "suggest", SuggestParams(sae=made.sae.slug, sample=5))
    assert run.result is not None
    assert (run.result["source"], run.result["suggested"]) == ("statistics", 5)
    async with ctx.sessions() as session:
        texts = await suggested_texts(session, made.sae.id, range(24))
        assert len(texts) == 5
        for feature, shown in texts.items():
            detail = await get_feature(session, made.sae, feature)
            assert detail is not None
            assert shown.text == plain_suggestion(detail)
            assert (shown.source, shown.model) == ("statistics", "")


async def test_what_cannot_be_asked_is_refused_before_it_starts(ctx: JobContext, made: Synthetic) -> None:
    async with ctx.sessions() as session:
        for params, why in (
            (SuggestParams(sae=made.sae.slug, source="model"), "SEESAE_LLM_URL"),
            (SuggestParams(sae=made.sae.slug, features=(24,)), "has no feature 24"),
        ):
            with pytest.raises(Unprocessable, match=why):
                await SUGGEST.check(session, ctx.settings, params)
        set_up = ctx.settings.model_copy(
            update={"llm_url": "http://127.0.0.1:9", "llm_model": "m", "llm_price_out": 1.0}
        )
        scored = await SUGGEST.check(session, set_up, SuggestParams(sae=made.sae.slug, sample=10))
        cost = await SUGGEST.check(session, set_up, SuggestParams(sae=made.sae.slug, sample=10, score=False))
    assert (cost.requests, cost.tokens_out, cost.dollars) == (10, 5120, pytest.approx(0.00512))
    assert scored.requests == 50
    assert cost.tokens is not None
    assert 1_000 < cost.tokens < 50_000
    own = replace(ctx, settings=set_up)
    run = await run_to_end(own, "suggest", SuggestParams(sae=made.sae.slug, sample=10, score=False, estimate=True))
    assert run.result is not None
    assert run.result["estimated_requests"] == 10


async def test_a_killed_run_continues_without_paying_twice(ctx: JobContext, made: Synthetic, database_url: str) -> None:
    killed = asyncio.Event()
    answered: list[str] = []

    async def hang_after_three(request: dict[str, Any]) -> Reply:
        if len(answered) == 3 and not killed.is_set():
            process.kill()
            await killed.wait()
            raise ConnectionError  # whoever asked is dead
        answered.append(request["messages"][1]["content"])
        return numbered(server.requests)

    async with llm_server(hang_after_three) as server:
        environment = {
            **os.environ,
            "SEESAE_HOME": str(ctx.settings.home),
            "SEESAE_DATABASE_URL": database_url,
            "SEESAE_LLM_URL": server.url,
            "SEESAE_LLM_MODEL": "small",
            "SEESAE_LLM_CONCURRENCY": "1",
        }
        command = [sys.executable, "-m", "app.cli", "suggest", made.sae.slug, "--sample", "6", "--no-score", "--json"]
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        assert await process.wait() == -9
        killed.set()
        again = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        output, _ = await again.communicate()
    assert again.returncode == 0
    result = json.loads(output)
    assert (result["suggested"], result["requests"], result["from_cache"]) == (6, 3, 3)
    assert set(Counter(answered).values()) == {1}


async def test_a_model_that_reads_only_the_label_tests_it_on_held_out_text(ctx: JobContext) -> None:
    """The tester knows the truth of its own label, so that a right label scores high, and another's at chance."""
    made = await make_sae(ctx.engine, sequences=900, length=64)
    keep_store(made, ctx.artifacts.root)
    features = (13, 17)

    def answer(request: dict[str, Any]) -> Reply:
        if "You study features" in request["messages"][0]["content"]:
            return completion(f"Explanation: {top_word(made, features[len(server.requests) - 1])}")
        return word_finder(request)

    def half(request: dict[str, Any]) -> Reply:
        return completion(
            "Explanation: x" if "You study" in request["messages"][0]["content"] else '{"1": 10, "2": 11}'
        )

    async with llm_server(answer) as server:
        own = asking(ctx, server, llm_concurrency=1)
        params = SuggestParams(sae=made.sae.slug, features=features)
        run = await run_to_end(own, "suggest", params)
        async with ctx.sessions() as session:
            found = [(await list_suggestions(session, made.sae.id, feature))[0] for feature in features]
        server.answer = half
        again = await run_to_end(own, "suggest", params.model_copy(update={"seed": 1}))
    assert run.result is not None
    assert (run.result["requests"], run.result["suggested"]) == (10, 2)
    assert [shown.text for shown in found] == [top_word(made, feature) for feature in features]
    for kind in ("detection", "fuzzing"):
        low, high = run.result[f"{kind}_interval"]
        assert low <= run.result[kind] <= high
        assert run.result[kind] > run.result[f"{kind}_floor"] + 0.15
        for shown in found:
            assert shown.scores is not None
            assert shown.scores["tester"] == "small"
            score = shown.scores[kind]
            assert 10 <= score["items"] <= 20
            for measure in ("balanced_accuracy", "f1", "auprc"):
                assert score[measure]["low"] <= score[measure]["value"] <= score[measure]["high"]
            assert score["floor"]["balanced_accuracy"]["value"] < score["balanced_accuracy"]["value"]
    assert again.result is not None
    assert "detection" not in again.result
    assert again.result["notes"] == ["2 of 2 suggestions could not be tested: their pages say why."]
    async with ctx.sessions() as session:
        (shown, *_) = await list_suggestions(session, made.sae.id, features[0])
    assert shown.text == "x"
    assert shown.scores is not None
    assert shown.scores["detection"] == {"error": "The answer rates 1 of 20 texts."}
