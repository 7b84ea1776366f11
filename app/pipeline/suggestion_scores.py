"""Test suggestions by a model that reads nothing but them: detection and fuzzing on held-out text, beside a floor.

The items are those of blind tests by people (`app/storage/blind_draw.py`). The floor is what the suggestion of a random
other feature scores on the same items.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from app.artifacts import store_key
from app.errors import Unprocessable
from app.pipeline.concurrent import for_each
from app.queries.models import TokenInfo, get_tokens
from app.queries.saes import SaeDetail
from app.queries.suggestions import put_scores, suggested_texts
from app.runs.context import RunContext, StageProgress
from app.runs.job_context import JobContext
from app.services.blind_items import ITEMS, BlindItem
from app.services.blind_scores import BlindAnswer, YesNoScore, score_yes_no
from app.services.llm import CHARACTERS_PER_TOKEN, RequestFailed
from app.services.paid_answers import PaidAnswers
from app.services.suggestion_prompts import BadAnswer, mark, parse_ratings, rating_prompt
from app.services.tokens import api_texts
from app.storage.blind_draw import draw_blind_items
from sae_core.errors import ArtifactError
from sae_core.store.activation_store import ActivationStore

if TYPE_CHECKING:
    from app.pipeline.suggest import SuggestParams

Kind = Literal["detection", "fuzzing"]
KINDS: tuple[Kind, ...] = ("detection", "fuzzing")
TESTS_PER_FEATURE = 2 * len(KINDS)
"""Each with the feature's own suggestion, and with that of another."""
TOKENS_PER_TEST = ITEMS * (32 + 40 // CHARACTERS_PER_TOKEN) + 250
"""Tokens of a test's prompt, roughly: 32 of each snippet."""
_YES = 0.5
"""Rating from which on the tester says yes."""
_REPLICATES = 2_000


@dataclass(frozen=True, slots=True)
class Made:
    """A suggestion to test."""

    id: int
    text: str


async def score_suggestions(
    run: RunContext,
    ctx: JobContext,
    sae: SaeDetail,
    made: Mapping[int, Made],
    answers: PaidAnswers,
    params: "SuggestParams",
    progress: StageProgress,
) -> dict[str, Any]:
    """Test suggestions by feature, write each one's scores, and return means over features for the run's result.

    What cannot be tested, because too little text is held out or the answers cannot be used, says why.
    """
    store = await _open(run, ctx, sae)
    if isinstance(store, str):
        return {"notes": [f"The suggestions were not tested: {store}"]}
    async with ctx.sessions() as session:
        known = await suggested_texts(session, sae.id, range(sae.d_sae))
    others = {feature: view.text for feature, view in known.items() if view.text}
    scores: dict[int, dict[str, Any]] = {}

    async def one(feature: int) -> None:
        floor = random_other(others, feature, made[feature].text, params.seed)
        own: dict[str, Any] = {"tester": answers.model, "seed": params.seed}
        for kind in KINDS:
            own[kind] = await _test(ctx, sae, store, feature, kind, made[feature].text, floor, answers, params)
        async with ctx.sessions.begin() as session:
            await put_scores(session, sae.id, made[feature].id, own)
        scores[feature] = own

    await for_each(list(made), one, limit=ctx.settings.llm_concurrency, progress=progress)
    return _means(list(scores.values()))


async def _open(run: RunContext, ctx: JobContext, sae: SaeDetail) -> ActivationStore | str:
    """Return the activation store of the SAE's index, or why there is none."""
    if not sae.has_weights or sae.index is None:
        return f"{sae.slug} was imported as statistics only, so there is no held-out text."
    try:
        folder = ctx.artifacts.index(store_key(sae, sae.index.sequence_set.sha256))
        return await run.in_thread(ActivationStore.open, folder)
    except (ArtifactError, OSError):
        return f"the activations of its index are not on this machine. seesae index {sae.slug} makes them again."


def random_other(others: Mapping[int, str], feature: int, text: str, seed: int) -> str | None:
    """Return the suggestion of a random other feature that says something else; None if there is none."""
    candidates = [other for number, other in sorted(others.items()) if number != feature and other != text]
    return candidates[np.random.default_rng([seed, feature]).integers(len(candidates))] if candidates else None


async def _test(
    ctx: JobContext,
    sae: SaeDetail,
    store: ActivationStore,
    feature: int,
    kind: Kind,
    text: str,
    floor: str | None,
    answers: PaidAnswers,
    params: "SuggestParams",
) -> dict[str, Any]:
    """Return the score of one test with that of the floor, or an `error`."""
    try:
        async with ctx.sessions() as session:
            items = await draw_blind_items(session, sae, store, feature, kind=kind, seed=params.seed)
            ids = {token for item in items for token in item.snippets[0].token_ids}
            tokens = await get_tokens(session, sae.model.id, ids)
        shown = [_shown(item, tokens) for item in items]
        own = await _rated(kind, text, items, shown, answers, params.answer_tokens)
        below = None if floor is None else await _rated(kind, floor, items, shown, answers, params.answer_tokens)
    except (BadAnswer, RequestFailed, Unprocessable) as failed:
        return {"error": str(failed)}
    return {**dataclasses.asdict(own), "floor": None if below is None else dataclasses.asdict(below)}


async def _rated(
    kind: Kind, label: str, items: Sequence[BlindItem], shown: Sequence[str], answers: PaidAnswers, max_tokens: int
) -> YesNoScore:
    """Return how well ratings by a label alone agree with what the feature does."""
    answer = await answers.ask(rating_prompt(kind, label, shown), max_tokens=max_tokens)
    ratings = parse_ratings(answer.text, len(items), finished=answer.finished)
    pairs = zip(items, ratings, strict=True)
    return score_yes_no([BlindAnswer(item.truth, int(rating >= _YES), item.why, rating) for item, rating in pairs])


def _shown(item: BlindItem, tokens: Mapping[int, TokenInfo]) -> str:
    """Return the one snippet of an item as a prompt shows it; in detection nothing is marked."""
    (snippet,) = item.snippets
    known = [tokens[token] for token in snippet.token_ids]
    texts = [
        "" if token.special else text
        for token, text in zip(known, api_texts([token.bytes for token in known]), strict=True)
    ]
    return mark(texts, [place in snippet.marked for place in range(len(texts))])


def _means(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean balanced accuracy per test with its interval over features, and the floor's."""
    found: dict[str, Any] = {}
    untested = 0
    for kind in KINDS:
        tested = [score[kind] for score in scores if "error" not in score[kind]]
        untested = max(untested, len(scores) - len(tested))
        if not tested:
            continue
        values = np.array([score["balanced_accuracy"]["value"] for score in tested])
        floors = [score["floor"]["balanced_accuracy"]["value"] for score in tested if score["floor"]]
        found[kind] = round(float(values.mean()), 4)
        drawn = np.random.default_rng(0).choice(values, (_REPLICATES, len(values))).mean(axis=1)
        found[f"{kind}_interval"] = [round(float(end), 4) for end in np.quantile(drawn, (0.025, 0.975))]
        found[f"{kind}_floor"] = round(float(np.mean(floors)), 4) if floors else None
    if untested:
        found["notes"] = [f"{untested:,} of {len(scores):,} suggestions could not be tested: their pages say why."]
    return found
