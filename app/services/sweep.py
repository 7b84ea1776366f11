"""Sweep over the strength of interventions, live, beside a control. No prompt or text is kept or logged."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries.features import get_feature
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.services.controls import Control, control_of, named_sae
from app.services.generation import Change, Wish, generate_request, placed
from app.services.inference import InferenceClient
from app.services.inference_messages import SweepBaseline, SweepRequest, SweptPoint
from app.services.tokens import api_texts

MAX_POINTS = 25
MAX_NEW_TOKENS = 100
"""Of each text of a sweep."""
LOSS_RISE = 2.0
"""Nats per token by which the loss of a collapsed text exceeds the default model's."""
REPETITION_RISE = 0.3
"""Share of 3-grams by which the repetition of a collapsed text exceeds the default text's."""
_PROMOTED = 10


@dataclass(frozen=True, slots=True)
class SweepWish:
    """A sweep to run: the first intervention's value takes each of `values`."""

    wish: Wish
    values: Sequence[float]
    control: Control | None = None


@dataclass(frozen=True, slots=True)
class PromotedToken:
    """One of the feature's output tokens, whose probability is followed."""

    id: int
    bytes: bytes
    text: str


@dataclass(frozen=True, slots=True)
class SweepStart:
    """The default model's continuation, the tokens that are followed, and the control's interventions."""

    text: str
    loss: float
    repetition: float
    promoted: tuple[PromotedToken, ...]
    control: list[Change] | None


@dataclass(frozen=True, slots=True)
class Point:
    """Measures at one strength; means over the new tokens."""

    control: bool
    value: float
    text: str
    kl: float
    loss: float
    repetition: float
    promoted: float | None

    def collapses(self, start: SweepStart) -> bool:
        """True if the fixed text costs `LOSS_RISE` more than by default, or the text repeats itself that much more."""
        return self.loss > start.loss + LOSS_RISE or self.repetition > start.repetition + REPETITION_RISE


@dataclass(slots=True)
class Swept:
    """Everything that was measured, in order of the strengths."""

    start: SweepStart = field(init=False)
    points: list[Point] = field(default_factory=list)

    def add(self, part: SweepStart | Point) -> None:
        """Take the next part."""
        if isinstance(part, SweepStart):
            self.start = part
        else:
            self.points.append(part)

    def series(self, *, control: bool) -> list[Point]:
        """Return the points of the interventions, or of the control, by strength."""
        return sorted((point for point in self.points if point.control == control), key=lambda point: point.value)

    def collapse(self, *, control: bool = False) -> float | None:
        """Return the smallest strength, whatever its sign, at which the text collapses; None if it never does."""
        collapsed = [point.value for point in self.series(control=control) if point.collapses(self.start)]
        return min(collapsed, key=abs, default=None)


async def sweep(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, asked: SweepWish
) -> AsyncGenerator[SweepStart | Point]:
    """Yield the start, then a point for each strength, each followed by the control's.

    Raises:
        Unprocessable: the first intervention has no strength, or there is no control for it; also as `generate`.
        NotFound, NoWeights, TooLarge, InferenceDown: as `generate`.
    """
    first = asked.wish.interventions[0][1]
    if first.op == "ablate":
        raise Unprocessable("Ablating has no strength to sweep over: choose clamp, scale or add.")
    if not all(map(math.isfinite, asked.values)):
        raise Unprocessable("A strength is infinite or not a number: give finite numbers.")
    request = await generate_request(session, sae, asked.wish)
    control = None if asked.control is None else await control_of(session, sae, asked.wish, asked.control)
    promoted = await _promoted(session, sae, asked.wish.interventions[0])
    full = SweepRequest(
        **request.model_dump(),
        values=list(dict.fromkeys(asked.values)),
        control=None if control is None else placed(control, request.saes),
        promoted=[token.id for token in promoted],
    )
    await session.commit()  # the first one waits for the model to load: no connection is held for that long
    async with aclosing(inference.sweep(full)) as events:
        async for event in events:
            match event:
                case SweepBaseline():
                    text = await _text(session, sae, event.token_ids)
                    yield SweepStart(text, event.loss, event.repetition, promoted, control)
                case SweptPoint():
                    text = await _text(session, sae, event.token_ids)
                    values = event.model_dump(exclude={"kind", "token_ids"})
                    yield Point(text=text, **values)


async def _promoted(session: AsyncSession, sae: SaeDetail, first: Change) -> tuple[PromotedToken, ...]:
    """Return the feature's top output tokens; none for a direction, or without an index."""
    slug, change = first
    number = change.feature if change.direction is None else change.direction.feature
    if number is None:
        return ()
    detail = await get_feature(session, await named_sae(session, sae, slug), number)
    if detail is None:
        return ()
    chosen = detail.promoted[:_PROMOTED]
    return tuple(PromotedToken(token.id, token.bytes, api_texts([token.bytes])[0]) for token in chosen)


async def _text(session: AsyncSession, sae: SaeDetail, ids: Sequence[int]) -> str:
    tokens = await get_tokens(session, sae.model.id, set(ids))
    await session.commit()  # no connection is held while the model works
    return b"".join(tokens[token_id].bytes for token_id in ids).decode(errors="replace")


async def sweep_all(session: AsyncSession, inference: InferenceClient, sae: SaeDetail, asked: SweepWish) -> Swept:
    """Return everything at once; raises as `sweep`."""
    whole = Swept()
    async for part in sweep(session, inference, sae, asked):
        whole.add(part)
    return whole


def default_values(maximum: float) -> tuple[float, ...]:
    """Return strengths from a quarter to three times a feature's maximum activation, with three digits."""
    return tuple(float(f"{factor * maximum:.3g}") for factor in (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3))
