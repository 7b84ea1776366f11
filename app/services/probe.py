"""Probe: run one prompt through model and SAE, and rank features by how unusual their activations are for them.

The inference process computes percentiles and ranks (`app.inference.ranking`); labels and tokens' texts are added here.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from app.errors import NoWeights, Unprocessable
from app.queries.labels import label_summaries
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient
from app.services.inference_messages import (
    ChatMessage,
    ProbeAnswer,
    ProbeRequest,
    PromptRequest,
    PromptTokens,
    RankBy,
    SaeRef,
)
from app.services.tokens import api_texts, parts, without_added_space

MAX_SAES = 8
"""SAEs that read a prompt together."""
MAX_TURNS = 100


@dataclass(frozen=True, slots=True)
class ProbeToken:
    """One token of the prompt; activations on `special` ones, such as BOS, are left out.

    `role` is that of its turn in a conversation; `added` ones were not written by the author.
    """

    id: int
    bytes: bytes
    text: str
    special: bool
    role: str | None = None
    added: bool = False


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
class Prompt:
    """A prompt: a text, or a conversation where `chat` is given."""

    text: str = ""
    chat: tuple[ChatMessage, ...] | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of a prompt: of the `firing` features, the first overall and the first of each token."""

    tokens: tuple[ProbeToken, ...]
    features: tuple[ProbeFeature, ...]
    per_token: tuple[tuple[TokenFeature, ...], ...]
    firing: int


@dataclass(frozen=True, slots=True)
class PromptResult:
    """A prompt's tokens as the model read them, and what each SAE finds on them, in the order they were named."""

    tokens: tuple[ProbeToken, ...]
    saes: tuple[SaeDetail, ...]
    results: tuple[ProbeResult, ...]


async def probe(
    session: AsyncSession,
    inference: InferenceClient,
    sae: SaeDetail,
    text: str,
    *,
    top_k: int,
    rank_by: RankBy = "percentile",
) -> ProbeResult:
    """Run `text` through the SAE's model and the SAE, live; the text is neither kept nor logged.

    Args:
        top_k: most features overall, and per token.
        rank_by: order of the features.

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
    answer = await inference.probe(ProbeRequest(sae=SaeRef.of(sae), text=text, rank_by=rank_by))
    tokens = await probe_tokens(session, sae, answer, text)
    summaries = await label_summaries(session, sae.id, answer.ranked) if sae.labelled else {}
    labels = {number: summary.explanation for number, summary in summaries.items()}
    return await run_in_threadpool(_result, tokens, answer, labels, top_k)


async def probe_prompt(
    session: AsyncSession,
    inference: InferenceClient,
    saes: Sequence[SaeDetail],
    prompt: Prompt,
    *,
    top_k: int,
    rank_by: RankBy = "percentile",
) -> PromptResult:
    """Run a text or a conversation through several SAEs of one model, in one forward pass; nothing is kept or logged.

    Raises:
        Unprocessable: the prompt cannot be read, there are too many SAEs, or they are of different models; also where
            the model has no chat template.
        NoWeights, TooLarge, InferenceDown: as `probe`.
    """
    check_prompt(prompt)
    check_together(saes)
    await session.commit()  # as in `probe`
    request = PromptRequest(
        saes=[SaeRef.of(sae) for sae in saes],
        text=prompt.text,
        chat=None if prompt.chat is None else list(prompt.chat),
        rank_by=rank_by,
    )
    answer = await inference.probe_prompt(request)
    first = answer.answers[0]
    origins = zip(await probe_tokens(session, saes[0], first, answer.text), answer.roles, answer.added, strict=True)
    tokens = tuple(replace(token, role=role, added=added) for token, role, added in origins)
    results = []
    for sae, own in zip(saes, answer.answers, strict=True):
        summaries = await label_summaries(session, sae.id, own.ranked) if sae.labelled else {}
        labels = {number: summary.explanation for number, summary in summaries.items()}
        results.append(await run_in_threadpool(_result, tokens, own, labels, top_k))
    return PromptResult(tokens, tuple(saes), tuple(results))


def check_number(saes: int) -> None:
    """Raise `Unprocessable` for more SAEs than can read a prompt together."""
    if saes > MAX_SAES:
        raise Unprocessable(f"At most {MAX_SAES} SAEs read a prompt together; {saes} are named.")


def check_together(saes: Sequence[SaeDetail]) -> None:
    """Refuse SAEs that cannot read a prompt from one forward pass.

    Raises:
        Unprocessable: there are too many, one is named twice, or they are of different models.
        NoWeights: one was imported as statistics only.
    """
    check_number(len(saes))
    for place, sae in enumerate(saes):
        if not sae.has_weights:
            raise NoWeights(sae.slug)
        if sae.model.id != saes[0].model.id:
            raise Unprocessable(
                f"{saes[0].slug} is an SAE of {saes[0].model.name}, {sae.slug} one of {sae.model.name}: only SAEs of "
                "one model read a prompt together."
            )
        if sae.id in {other.id for other in saes[:place]}:
            raise Unprocessable(f"{sae.slug} is named twice: name each SAE once.")


def _result(tokens: tuple[ProbeToken, ...], answer: ProbeAnswer, labels: Mapping[int, str], top_k: int) -> ProbeResult:
    """Put the answer into rows: for a long text too much work for the event loop."""
    return ProbeResult(
        tokens=tokens,
        features=_overall(answer, labels, top_k),
        per_token=_per_token(answer, labels, top_k),
        firing=len(answer.ranked),
    )


def check_prompt(prompt: Prompt) -> None:
    """Refuse a prompt that cannot be read.

    Raises:
        Unprocessable: it is empty, or not valid Unicode; the conversation has no turns or too many.
    """
    if prompt.chat is None:
        check_text(prompt.text)
        return
    if not prompt.chat:
        raise Unprocessable("The conversation has no turns: give at least one, such as a user's.")
    if len(prompt.chat) > MAX_TURNS:
        raise Unprocessable(f"The conversation has {len(prompt.chat)} turns; at most {MAX_TURNS} can be probed.")
    for message in prompt.chat:
        check_text(message.role)
        if message.content:
            check_text(message.content)
    if not any(message.content for message in prompt.chat):
        raise Unprocessable("Every turn of the conversation is empty: enter some words to probe.")


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
            added=not counted and not part,
        )
        for token, part, counted in zip(found, parts(text, answer.ends), answer.counted, strict=True)
    )
