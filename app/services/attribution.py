"""Attribute an output token to the features of one or several SAEs of one model, live.

The inference process computes (`app.inference.attribution`); labels and tokens' texts are added here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.labels import label_summaries
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient
from app.services.inference_messages import AttributeAnswer, AttributedEdge, AttributeRequest, SaeRef, TokenChoice
from app.services.probe import ProbeToken, check_number, check_text, check_together, probe_tokens
from app.services.saes import find_sae
from app.services.tokens import api_texts

MAX_STEPS = 100
MAX_TOP = 1_000
MAX_VERIFY = 200

Method = Literal["gradient", "integrated"]


@dataclass(frozen=True, slots=True)
class Question:
    """An output token to attribute, and the method; None for the last position, the most probable token, no rival."""

    text: str
    position: int | None = None
    target: TokenChoice | None = None
    rival: TokenChoice | None = None
    method: Method = "gradient"
    steps: int = 10
    top: int = 50
    verify: int = 10


@dataclass(frozen=True, slots=True)
class OutputToken:
    """A token that the model may predict, with its probability."""

    id: int
    bytes: bytes
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """A feature of one SAE at a position, and its contribution in logits.

    `ablation` is the exact change of the target when it alone is ablated, None where that was not computed. Where the
    estimate is good, it is near −`attribution`.
    """

    sae: str
    feature: int
    label: str | None
    position: int
    activation: float
    attribution: float
    ablation: float | None


@dataclass(frozen=True, slots=True)
class PositionShare:
    """Contributions of one SAE at one position: the sum over its features, and that of its error term."""

    sae: str
    position: int
    features: float
    error: float


@dataclass(frozen=True, slots=True)
class AttributionResult:
    """Contributions to the target: a token's logit, or its difference to the rival's, after `position`."""

    saes: tuple[SaeDetail, ...]
    tokens: tuple[ProbeToken, ...]
    position: int
    target: OutputToken
    rival: OutputToken | None
    predictions: tuple[OutputToken, ...]
    value: float
    active: int
    nodes: tuple[Contribution, ...]
    shares: tuple[PositionShare, ...]
    explained: float | None
    rank_correlation: float | None
    edges: tuple[AttributedEdge, ...]
    edges_kept: float

    def error_share(self, sae: str) -> float | None:
        """Return the error terms' share of one SAE: Σ |error| / Σ (|features| + |error|) over positions."""
        own = [share for share in self.shares if share.sae == sae]
        errors = sum(abs(share.error) for share in own)
        whole = errors + sum(abs(share.features) for share in own)
        return errors / whole if whole else None


async def attribute(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, others: Sequence[str], question: Question
) -> AttributionResult:
    """Attribute an output token to the features of `sae` and of `others`; the text is neither kept nor logged.

    Raises:
        NotFound: there is no such SAE.
        NoWeights: an SAE was imported as statistics only.
        Unprocessable: the text, the position, a token or the choice of SAEs is not valid.
        TooLarge: the text is longer than the limit, or needs more memory than there is.
        InferenceDown: the inference process does not answer.
    """
    check_text(question.text)
    saes = await _saes(session, sae, others)
    await session.commit()  # the first answer waits for the model to load: no connection is held for that long
    answer = await inference.attribute(
        AttributeRequest(
            saes=[SaeRef.of(one) for one in saes],
            text=question.text,
            position=question.position,
            target=question.target,
            rival=question.rival,
            method=question.method,
            steps=question.steps,
            top=question.top,
            verify=question.verify,
        )
    )
    tokens = await probe_tokens(session, sae, answer, question.text)
    nodes = await _nodes(session, saes, answer)
    target, rival, predictions = await _output_tokens(session, sae, answer)
    return AttributionResult(
        saes=saes,
        tokens=tokens,
        position=answer.position,
        target=target,
        rival=rival,
        predictions=predictions,
        value=answer.value,
        active=answer.active,
        nodes=nodes,
        shares=tuple(
            PositionShare(one.slug, position, features, error)
            for one, of_features, of_errors in zip(saes, answer.features, answer.errors, strict=True)
            for position, (features, error) in enumerate(zip(of_features, of_errors, strict=True))
            if answer.counted[position]
        ),
        explained=answer.explained,
        rank_correlation=answer.rank_correlation,
        edges=tuple(answer.edges),
        edges_kept=answer.edges_kept,
    )


async def _saes(session: AsyncSession, sae: SaeDetail, others: Sequence[str]) -> tuple[SaeDetail, ...]:
    """Return `sae` and the others, each once. Raises as `check_together`, and `NotFound`."""
    slugs = [slug for slug in dict.fromkeys(others) if slug != sae.slug]
    check_number(1 + len(slugs))
    saes = (sae, *[await find_sae(session, slug) for slug in slugs])
    check_together(saes)
    return saes


async def _nodes(session: AsyncSession, saes: Sequence[SaeDetail], answer: AttributeAnswer) -> tuple[Contribution, ...]:
    labels: dict[tuple[int, int], str] = {}
    for number, sae in enumerate(saes):
        features = {node.feature for node in answer.nodes if node.sae == number}
        summaries = await label_summaries(session, sae.id, features) if sae.labelled else {}
        labels |= {(number, feature): summary.explanation for feature, summary in summaries.items()}
    return tuple(
        Contribution(
            sae=saes[node.sae].slug,
            feature=node.feature,
            label=labels.get((node.sae, node.feature)),
            position=node.position,
            activation=node.activation,
            attribution=node.attribution,
            ablation=node.ablation,
        )
        for node in answer.nodes
    )


async def _output_tokens(
    session: AsyncSession, sae: SaeDetail, answer: AttributeAnswer
) -> tuple[OutputToken, OutputToken | None, tuple[OutputToken, ...]]:
    chosen = [answer.target, *([] if answer.rival is None else [answer.rival])]
    known = await get_tokens(session, sae.model.id, {*chosen, *(token for token, _ in answer.predictions)})

    def token(number: int, probability: float) -> OutputToken:
        raw = known[number].bytes
        return OutputToken(number, raw, api_texts([raw])[0], probability)

    target, *rival = [token(*pair) for pair in zip(chosen, answer.probabilities, strict=True)]
    return target, rival[0] if rival else None, tuple(token(*pair) for pair in answer.predictions)
