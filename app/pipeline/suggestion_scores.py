"""Test suggestions by a model that reads nothing but them, and keep what each scores."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import Unprocessable
from app.pipeline.concurrent import for_each
from app.pipeline.model_tester import KINDS, Kind, ModelTester, Tested, mean_scores
from app.queries.suggestions import put_scores, suggested_texts
from app.runs.context import StageProgress
from app.services.llm import RequestFailed
from app.services.suggestion_prompts import BadAnswer


@dataclass(frozen=True, slots=True)
class Made:
    """A suggestion to test."""

    id: int
    text: str


async def score_suggestions(tester: ModelTester, made: Mapping[int, Made], progress: StageProgress) -> dict[str, Any]:
    """Test suggestions by feature, write each one's scores, and return means over features for the run's result.

    What cannot be tested, because too little text is held out or the answers cannot be used, says why.
    """
    ctx, sae = tester.ctx, tester.sae
    async with ctx.sessions() as session:
        known = await suggested_texts(session, sae.id, range(sae.d_sae))
    others = {feature: view.text for feature, view in known.items() if view.text}
    untested: set[int] = set()

    async def one(feature: int) -> dict[Kind, Tested]:
        text = made[feature].text
        floor = tester.random_other(others, feature, text)
        scores: dict[str, Any] = {"tester": tester.answers.model, "seed": tester.seed}
        tests: dict[Kind, Tested] = {}
        for kind in KINDS:
            try:
                tests[kind] = tested = await tester.test(feature, kind, text, floor)
            except (BadAnswer, RequestFailed, Unprocessable) as failed:
                untested.add(feature)
                scores[kind] = {"error": str(failed)}
                continue
            below = None if tested.floor is None else dataclasses.asdict(tested.floor)
            scores[kind] = {**dataclasses.asdict(tested.score), "floor": below}
        async with ctx.sessions.begin() as session:
            await put_scores(session, sae.id, made[feature].id, scores)
        return tests

    tests = await for_each(list(made), one, limit=ctx.settings.llm_concurrency, progress=progress)
    note = f"{len(untested):,} of {len(made):,} suggestions could not be tested: their pages say why."
    return {**mean_scores(tests), **({"notes": [note]} if untested else {})}
