"""Probe: run one prompt through model and SAE, and rank features by how unusual their activations are for them.

The inference process computes percentiles and ranks (`app.inference.ranking`); labels and tokens' texts are added here.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from app.errors import NoWeights, Unprocessable
from app.queries.labels import label_summaries
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient, ProbeAnswer, ProbeRequest, PromptTokens, SaeRef
from app.services.tokens import api_texts, parts, without_added_space


@dataclass(frozen=True, slots=True)
class ProbeToken:
    """One token of the prompt; activations on `special` ones, such as BOS, are left out."""

    id: int
    bytes: bytes
    text: str
    special: bool


@dataclass(frozen=True, slots=True)
class ProbeFeature:
    """A feature that is active on the prompt, with its activation on every token.

    `percentile` is that of `max` within the feature's own activations, 0 to 100; None if the SAE has no index. `scale`
    is the activation that is shaded fully: the larger of `max` and the feature's maximum in the index.
    """

    index: int
    label: str | None
    max: float
    max_position: int
    percentile: float | None
    activations: tuple[float, ...]
    scale: float


@dataclass(slots=True)
class TokenFeature:
    """A feature that is active on one token; `percentile` belongs to this activation.

    It is not frozen, because a prompt has thousands of these, and freezing triples the time to create them.
    """

    index: int
    label: str | None
    activation: float
    percentile: float | None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of a prompt: of the `firing` features, the first overall and the first of each token."""

    tokens: tuple[ProbeToken, ...]
    features: tuple[ProbeFeature, ...]
    per_token: tuple[tuple[TokenFeature, ...], ...]
    firing: int


async def probe(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, text: str, *, top_k: int
) -> ProbeResult:
    """Run `text` through the SAE's model and the SAE, live; the text is neither kept nor logged.

    Args:
        top_k: most features overall, and per token.

    Raises:
        Unprocessable: the text is empty, or is not valid Unicode.
        NoWeights: the SAE was imported as statistics only.
        TooLarge: the text is longer than the limit; the message states both.
        InferenceDown: the inference process does not answer.
    """
    check_text(text)
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    await session.commit()  # the first probe waits for the model to load: no connection is held for that long
    answer = await inference.probe(ProbeRequest(sae=SaeRef.of(sae), text=text))
    tokens = await probe_tokens(session, sae, answer, text)
    summaries = await label_summaries(session, sae.id, answer.ranked) if sae.labelled else {}
    labels = {number: summary.explanation for number, summary in summaries.items()}
    return await run_in_threadpool(_result, tokens, answer, labels, top_k)


def _result(tokens: tuple[ProbeToken, ...], answer: ProbeAnswer, labels: Mapping[int, str], top_k: int) -> ProbeResult:
    """Put the answer into rows: for a long text too much work for the event loop."""
    return ProbeResult(
        tokens=tokens,
        features=_overall(answer, labels, top_k),
        per_token=_per_token(answer, labels, top_k),
        firing=len(answer.ranked),
    )


def check_text(text: str) -> None:
    """Refuse text that no tokenizer can read.

    Raises:
        Unprocessable: the text is empty, or has half a surrogate pair (JSON can spell one).
    """
    if not text:
        raise Unprocessable("The text is empty: enter some words to probe.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise Unprocessable(
            f"The text has half of a surrogate pair ({half}) at character {error.start}, which is no character: "
            "send whole characters."
        ) from None


def _overall(answer: ProbeAnswer, labels: Mapping[int, str], top_k: int) -> tuple[ProbeFeature, ...]:
    """Return the first features of the whole text."""
    entries: dict[int, list[int]] = {number: [] for number in answer.ranked[:top_k]}
    for entry, number in enumerate(answer.features):
        if number in entries:
            entries[number].append(entry)
    features = []
    for (number, own), maximum in zip(entries.items(), answer.maxima, strict=False):
        activations = [0.0] * len(answer.token_ids)
        for entry in own:
            activations[answer.positions[entry]] = answer.activations[entry]
        strongest = max(own, key=answer.activations.__getitem__)
        features.append(
            ProbeFeature(
                index=number,
                label=labels.get(number),
                max=answer.activations[strongest],
                max_position=answer.positions[strongest],
                percentile=_percentiles(answer)[strongest],
                activations=tuple(activations),
                scale=max(maximum, answer.activations[strongest]),
            )
        )
    return tuple(features)


def _per_token(answer: ProbeAnswer, labels: Mapping[int, str], top_k: int) -> tuple[tuple[TokenFeature, ...], ...]:
    """Return the features of each token, by percentile of their activation there."""
    found: dict[int, list[TokenFeature]] = defaultdict(list)
    entries = zip(answer.positions, answer.features, answer.activations, _percentiles(answer), strict=True)
    for position, number, activation, percentile in entries:
        found[position].append(TokenFeature(number, labels.get(number), activation, percentile))
    for features in found.values():
        features.sort(key=lambda feature: (feature.percentile or 0.0, feature.activation), reverse=True)
    return tuple(tuple(found[position][:top_k]) for position in range(len(answer.token_ids)))


def _percentiles(answer: ProbeAnswer) -> Sequence[float | None]:
    return answer.percentiles if answer.percentiles is not None else [None] * len(answer.features)


async def probe_tokens(
    session: AsyncSession, sae: SaeDetail, answer: PromptTokens, text: str
) -> tuple[ProbeToken, ...]:
    """Return the tokens of a prompt for display; their texts are its parts."""
    known = await get_tokens(session, sae.model.id, set(answer.token_ids))
    found = [known[token_id] for token_id in answer.token_ids]
    return tuple(
        ProbeToken(
            id=token.id,
            bytes=without_added_space(token.bytes, part),
            text=part if counted or part else api_texts([token.bytes])[0],
            special=not counted,
        )
        for token, part, counted in zip(found, parts(text, answer.ends), answer.counted, strict=True)
    )
