"""Show one feature on text that the index does not hold: sampled from any part of its range, or the reader's own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, NoWeights, Unprocessable
from app.queries.examples import ExampleToken, ExampleView, view_stored
from app.queries.features import FeatureDetail
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient
from app.services.inference_messages import ExamplesRequest, SaeRef, TextsRequest
from app.services.probe import check_text
from app.services.tokens import parts, without_added_space

MAX_TEXTS = 10
MAX_DRAWN = 50
MAX_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """Examples sampled from the `found` activations in (low, high]."""

    low: float
    high: float
    seed: int
    found: int
    examples: tuple[ExampleView, ...]


@dataclass(frozen=True, slots=True)
class TriedText:
    """A text with the feature's activation on its tokens; `peak` is the strongest, 0 if it is never active."""

    text: str
    tokens: tuple[ExampleToken, ...]
    peak: float
    position: int


async def draw_examples(
    session: AsyncSession,
    inference: InferenceClient,
    sae: SaeDetail,
    feature: FeatureDetail,
    *,
    low: float,
    high: float,
    limit: int = 10,
    seed: int = 0,
) -> Drawn:
    """Sample examples of a feature whose activation lies in (low, high], from the activation store.

    Raises:
        NoWeights: the SAE was imported without any, and so without a store.
        Unprocessable: the range is empty, or the limit or the seed is out of range.
        Conflict: the index was replaced in the meantime.
        Unavailable: the store is not on disk, or the inference process does not answer.
    """
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    if not 0 <= low < high < math.inf:
        raise Unprocessable(
            f"From {low:g} to {high:g} is not a valid range of activations: give two finite numbers, the lower first."
        )
    if limit not in range(1, MAX_DRAWN + 1) or seed not in range(MAX_SEED + 1):
        raise Unprocessable(f"Draw 1 to {MAX_DRAWN} examples, with a seed of 0 to {MAX_SEED}.")
    request = ExamplesRequest(sae=sae.slug, feature=feature.index, low=low, high=high, limit=limit, seed=seed)
    found, views = await _sample(session, inference, sae, feature, request)
    return Drawn(low, high, seed, found, tuple(views))


async def stored_sequence(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, feature: FeatureDetail, sequence: int
) -> ExampleView:
    """Return one sequence of the corpus on which the feature is active, from the activation store.

    Raises:
        NotFound: it is not active there, or the sequence is held out.
        Conflict: the index was replaced in the meantime.
        Unavailable: the store is not on disk, or the inference process does not answer.
    """
    nowhere = NotFound(
        f"Feature {feature.index} is not active in a sequence {sequence} of this corpus, or the sequence is kept for "
        "blind tests of labels."
    )
    if not sae.has_weights:  # and so no store: its examples are all there are
        raise nowhere
    request = ExamplesRequest(sae=sae.slug, feature=feature.index, low=0, high=feature.max, sequence=sequence, limit=1)
    _, views = await _sample(session, inference, sae, feature, request)
    if not views:
        raise nowhere
    return views[0]


async def _sample(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, feature: FeatureDetail, request: ExamplesRequest
) -> tuple[int, list[ExampleView]]:
    """Return the number of activations in the range, and a sample of them with the text of their sequences."""
    assert sae.index is not None
    await session.commit()  # the first sample checks the whole store: no connection is held for that long
    answer = await inference.sample_examples(request)
    if answer.index != sae.index.id:  # its sequences may be others, and their text would be shaded wrongly
        raise Conflict(f"The index of {sae.slug} was replaced while its examples were drawn. Load the page again.")
    return answer.found, await view_stored(session, sae, feature.index, feature.band_edges, answer.examples)


async def try_texts(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, feature: int, texts: Sequence[str]
) -> list[TriedText]:
    """Run texts through model and SAE, and return one feature's activations; the texts are neither kept nor logged.

    Raises:
        Unprocessable: there is no text, or there are too many.
        NoWeights: the SAE was imported without any.
        TooLarge: a text is longer than the limit.
        InferenceDown: the inference process does not answer.
    """
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise Unprocessable(f"Give 1 to {MAX_TEXTS} texts, a line each; there are {len(texts)}.")
    for text in texts:
        check_text(text)
    await session.commit()  # the first text waits for the model to load: no connection is held for that long
    request = TextsRequest(sae=SaeRef.of(sae), feature=feature, texts=list(texts))
    answer = await inference.activations_on_texts(request)
    known = await get_tokens(session, sae.model.id, {token for tried in answer.texts for token in tried.token_ids})
    found = []
    for text, tried in zip(texts, answer.texts, strict=True):
        columns = zip(tried.token_ids, parts(text, tried.ends), tried.counted, tried.activations, strict=True)
        tokens = tuple(
            ExampleToken(token, without_added_space(known[token].bytes, part), not counted, activation)
            for token, part, counted, activation in columns
        )
        peak = max(tried.activations, default=0.0)
        found.append(TriedText(text, tokens, peak, tried.activations.index(peak) if peak else 0))
    return found
