"""Suggestions as a run writes them."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.suggestions import NewSuggestion, put_scores, put_suggestion
from tests.factories import Synthetic, add_run

HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) http://evil.example =cmd|'/c calc'!A1"


def score(value: float, floor: float | None = 0.5) -> dict[str, Any]:
    """Return the score of a test, as `score_suggestions` writes it."""
    measures = {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name in ("balanced_accuracy", "f1")}
    own: dict[str, Any] = {"items": 20, **measures, "auprc": None, "base_rate": 0.5, "by_kind": {}}
    return own if floor is None else {**own, "floor": score(floor, None)}


async def suggest_some(session: AsyncSession, made: Synthetic) -> list[int]:
    """Write suggestions for features 3 (hostile, tested), 4 (none) and 5 (from statistics); return their ids."""
    run = (await add_run(session)).id
    new = {
        3: NewSuggestion("a", "model", "small", "0123456789ab", text=HOSTILE),
        4: NewSuggestion("b", "model", "small", "0123456789ab", error="The answer was cut off."),
        5: NewSuggestion("c", "statistics", text="Mostly “river”"),
    }
    ids = [await put_suggestion(session, made.sae, feature, one, run_id=run) for feature, one in new.items()]
    scores = {
        "tester": "small",
        "seed": 0,
        "detection": score(0.8),
        "fuzzing": {"error": "The answer rates 3 of 20 texts."},
    }
    await put_scores(session, made.sae.id, ids[0], scores)
    await session.commit()
    return ids
