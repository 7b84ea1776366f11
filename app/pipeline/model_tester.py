"""A model as the tester of labels: it reads a label and held-out texts, and rates in which the feature is active.

The items are those of blind tests by people (`app/storage/blind_draw.py`). The floor is what a label of a random other
feature scores on the same items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from app.artifacts import store_key
from app.errors import Unavailable
from app.object_store import StoreAway
from app.queries.models import TokenInfo, get_tokens
from app.queries.saes import SaeDetail
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.services.blind_items import ITEMS, BlindItem
from app.services.blind_scores import BlindAnswer, YesNoScore, score_yes_no
from app.services.llm import CHARACTERS_PER_TOKEN
from app.services.paid_answers import PaidAnswers
from app.services.suggestion_prompts import mark, parse_ratings, rating_prompt
from app.services.tokens import api_texts
from app.storage.blind_draw import draw_blind_items
from sae_core.errors import ArtifactError
from sae_core.store.activation_store import ActivationStore

Kind = Literal["detection", "fuzzing"]
KINDS: tuple[Kind, ...] = ("detection", "fuzzing")
REQUESTS_PER_LABEL = 2 * len(KINDS)
"""Each test is of the label, and of that of another feature."""
TOKENS_PER_REQUEST = ITEMS * (32 + 40 // CHARACTERS_PER_TOKEN) + 250
"""Tokens of a test's prompt, roughly: 32 of each snippet."""
_YES = 0.5
"""Rating from which on the tester says yes."""


@dataclass(frozen=True, slots=True)
class Tested:
    """One test of a label: its items, the model's ratings from 0 to 1, its score, and that of the floor."""

    items: list[BlindItem]
    ratings: list[float]
    score: YesNoScore
    floor: YesNoScore | None

    @property
    def said(self) -> list[int]:
        """Return the answers, 1 for yes and 0 for no."""
        return _said(self.ratings)

    @property
    def balanced_accuracies(self) -> tuple[float, float | None]:
        """Return those of the label and of the floor."""
        below = None if self.floor is None else self.floor.balanced_accuracy.value
        return self.score.balanced_accuracy.value, below


@dataclass(frozen=True)
class ModelTester:
    """A model that tests labels of one SAE. Equal seeds draw equal items."""

    ctx: JobContext
    sae: SaeDetail
    store: ActivationStore
    answers: PaidAnswers
    max_tokens: int
    seed: int

    async def test(self, feature: int, kind: Kind, label: str, floor: str | None) -> Tested:
        """Test a label; raises as `PaidAnswers.ask`, and what follows.

        Raises:
            Unprocessable: too few held-out texts show the feature, or too few do not.
            BadAnswer: the answer does not rate all texts.
        """
        async with self.ctx.sessions() as session:
            items = await draw_blind_items(session, self.sae, self.store, feature, kind=kind, seed=self.seed)
            ids = {token for item in items for token in item.snippets[0].token_ids}
            tokens = await get_tokens(session, self.sae.model.id, ids)
        texts = [_shown(item, tokens) for item in items]
        ratings = await self._rate(kind, label, texts)
        below = None if floor is None else _score(items, await self._rate(kind, floor, texts))
        return Tested(items, ratings, _score(items, ratings), below)

    async def _rate(self, kind: Kind, label: str, texts: Sequence[str]) -> list[float]:
        answer = await self.answers.ask(rating_prompt(kind, label, texts), max_tokens=self.max_tokens)
        return parse_ratings(answer.text, len(texts), finished=answer.finished)

    def random_other(self, labels: Mapping[int, str], feature: int, label: str) -> str | None:
        """Return the label of a random other feature that says something else; None if there is none."""
        candidates = [other for number, other in sorted(labels.items()) if number != feature and other != label]
        random = np.random.default_rng([self.seed, feature])
        return candidates[random.integers(len(candidates))] if candidates else None


async def open_store(run: RunContext, ctx: JobContext, sae: SaeDetail) -> ActivationStore:
    """Return the activation store of the SAE's index.

    Raises:
        Unavailable: it is not on this machine, or there never was one.
    """
    if not sae.has_weights or sae.index is None:
        raise Unavailable(f"{sae.slug} was imported as statistics only, so there is no held-out text.")
    try:
        folder = ctx.artifacts.index(store_key(sae, sae.index.sequence_set.sha256))
        return await run.in_thread(lambda: ActivationStore.open(ctx.artifacts.pull(folder)))
    except StoreAway:
        raise
    except (ArtifactError, OSError):
        raise Unavailable(
            f"The activations of its index are not on this machine: seesae index {sae.slug} makes them again."
        ) from None


def _said(ratings: Sequence[float]) -> list[int]:
    return [int(rating >= _YES) for rating in ratings]


def _score(items: Sequence[BlindItem], ratings: Sequence[float]) -> YesNoScore:
    columns = zip(items, _said(ratings), ratings, strict=True)
    return score_yes_no([BlindAnswer(item.truth, said, item.why, rating) for item, said, rating in columns])


def _shown(item: BlindItem, tokens: Mapping[int, TokenInfo]) -> str:
    """Return the one snippet of an item as a prompt shows it; in detection nothing is marked."""
    (snippet,) = item.snippets
    known = [tokens[token] for token in snippet.token_ids]
    texts = [
        "" if token.special else text
        for token, text in zip(known, api_texts([token.bytes for token in known]), strict=True)
    ]
    return mark(texts, [place in snippet.marked for place in range(len(texts))])


def mean_scores(labels: Sequence[Mapping[Kind, Tested]]) -> dict[str, Any]:
    """Return means of balanced accuracy per kind of test, with 95 % bootstrap intervals over labels.

    `beyond_floor` is the mean of own − floor over the labels that have a floor: the two are of the same texts, so their
    difference is paired. `labels` counts those that were tested.
    """
    found: dict[str, Any] = {}
    for kind in KINDS:
        pairs = [tests[kind].balanced_accuracies for tests in labels if kind in tests]
        if not pairs:
            continue
        floors = [floor for _, floor in pairs if floor is not None]
        found[kind], found[f"{kind}_interval"] = _mean([own for own, _ in pairs])
        found[f"{kind}_floor"] = round(float(np.mean(floors)), 4) if floors else None
        if floors:
            beyond = _mean([own - floor for own, floor in pairs if floor is not None])
            found[f"{kind}_beyond_floor"], found[f"{kind}_beyond_floor_interval"] = beyond
        found[f"{kind}_labels"] = len(pairs)
    return found


def _mean(values: Sequence[float]) -> tuple[float, list[float]]:
    """Return the mean, and its percentile bootstrap interval."""
    own = np.array(values)
    drawn = np.random.default_rng(0).choice(own, (2_000, len(own))).mean(axis=1)
    return round(float(own.mean()), 4), [round(float(end), 4) for end in np.quantile(drawn, (0.025, 0.975))]
