"""Generate with and without interventions, live: the inference process generates, tokens' texts are added here.

Neither the prompt nor what is generated is kept or logged.
"""

import codecs
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries.models import TokenInfo, get_tokens
from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient
from app.services.inference_messages import (
    ChatMessage,
    GeneratedEnd,
    GeneratedPrompt,
    GeneratedShift,
    GeneratedToken,
    GenerateRequest,
    InterventionChoice,
    PlacedIntervention,
    SaeRef,
)
from app.services.probe import MAX_SAES, ProbeToken, check_prompt, check_together
from app.services.probe import Prompt as ReadPrompt
from app.services.saes import find_sae
from app.services.tokens import api_texts, parts, without_added_space

MAX_NEW_TOKENS = 512
MAX_INTERVENTIONS = 64
MAX_STOPS = 8

Side = Literal["default", "changed"]


Change = tuple[str | None, InterventionChoice]
"""The slug of its SAE, None for the page's own, and an intervention."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A prompt to continue, its interventions, and the sampling; with `chat` it is that conversation, and no text."""

    text: str
    interventions: Sequence[Change]
    max_new_tokens: int = 40
    temperature: float = 0.0
    seed: int = 0
    stop: Sequence[str] = ()
    top: int = 5
    chat: Sequence[ChatMessage] | None = None


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A token that could stand at a place."""

    id: int
    bytes: bytes
    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class NextToken:
    """A generated token of one side. `text` joins to the side's text: parts of a character wait for its last token."""

    side: Side
    id: int
    bytes: bytes
    text: str
    log_probability: float
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True, slots=True)
class MovedToken:
    """A token whose probability the interventions change."""

    id: int
    bytes: bytes
    text: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class PredictionShift:
    """Change of the prediction after the token at `position` of the changed text."""

    position: int
    kl: float
    raised: tuple[MovedToken, ...]
    lowered: tuple[MovedToken, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt's tokens, which come first."""

    tokens: tuple[ProbeToken, ...]


@dataclass(frozen=True, slots=True)
class SideEnd:
    """A side is complete; `text` is what its last tokens left of a character."""

    side: Side
    reason: str
    text: str


GenerationPart = Prompt | NextToken | PredictionShift | SideEnd


@dataclass(slots=True)
class _Texts:
    """Texts of the tokens of one model."""

    session: AsyncSession
    model_id: int
    known: Mapping[int, TokenInfo] = field(default_factory=dict)

    async def learn(self, ids: Sequence[int]) -> None:
        self.known = await get_tokens(self.session, self.model_id, set(ids))
        await self.session.commit()  # no connection is held while the model works

    def alone(self, token_id: int) -> tuple[bytes, str]:
        raw = self.known[token_id].bytes
        return raw, api_texts([raw])[0]


async def generate(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, wish: Wish
) -> AsyncGenerator[GenerationPart]:
    """Yield the prompt, then tokens of both sides, shifts and ends as they come.

    Raises:
        Unprocessable: the text is empty or is not valid Unicode, or an intervention makes no sense.
        NotFound: there is no such SAE.
        NoWeights: an SAE was imported as statistics only.
        TooLarge: the prompt is too long, or needs too much memory.
        InferenceDown: the inference process does not answer.
    """
    request = await generate_request(session, sae, wish)
    await session.commit()  # the first one waits for the model to load: no connection is held for that long
    texts = _Texts(session, sae.model.id)
    decoders = {side: codecs.getincrementaldecoder("utf-8")("replace") for side in ("default", "changed")}
    async with aclosing(inference.generate(request)) as events:
        async for event in events:
            match event:
                case GeneratedPrompt():
                    await texts.learn(event.token_ids)
                    yield Prompt(_prompt(texts, event))
                case GeneratedToken():
                    await texts.learn([event.id, *(token for token, _ in event.top)])
                    raw = texts.known[event.id].bytes
                    likely = tuple(LikelyToken(token, *texts.alone(token), value) for token, value in event.top)
                    text = decoders[event.side].decode(raw)
                    yield NextToken(event.side, event.id, raw, text, event.log_probability, likely)
                case GeneratedShift():
                    await texts.learn([row[0] for row in (*event.raised, *event.lowered)])
                    raised, lowered = (
                        tuple(MovedToken(token, *texts.alone(token), before, after) for token, before, after in rows)
                        for rows in (event.raised, event.lowered)
                    )
                    yield PredictionShift(event.position, event.kl, raised, lowered)
                case GeneratedEnd():
                    yield SideEnd(event.side, event.reason, decoders[event.side].decode(b"", final=True))


async def generate_request(session: AsyncSession, sae: SaeDetail, wish: Wish) -> GenerateRequest:
    """Return the request, with every SAE that an intervention names; raises as `generate`."""
    check_prompt(ReadPrompt(wish.text, None if wish.chat is None else tuple(wish.chat)))
    slugs = list(dict.fromkeys([sae.slug, *(slug for slug, _ in wish.interventions if slug is not None)]))
    saes = [SaeRef.of(detail) for detail in await saes_to_change(session, sae, slugs)]
    return GenerateRequest(
        saes=saes,
        text=wish.text if wish.chat is None else "",
        chat=None if wish.chat is None else list(wish.chat),
        interventions=placed(wish.interventions, saes),
        max_new_tokens=wish.max_new_tokens,
        temperature=wish.temperature,
        seed=wish.seed,
        stop=list(wish.stop),
        top=wish.top,
    )


async def saes_to_change(session: AsyncSession, sae: SaeDetail, slugs: Sequence[str]) -> list[SaeDetail]:
    """Return the SAEs of these names, of which one may be `sae`, for interventions in one pass.

    Raises:
        NotFound: there is no such SAE.
        Unprocessable, NoWeights: as `check_together`.
    """
    if len(slugs) > MAX_SAES:
        raise Unprocessable(f"Interventions can be on at most {MAX_SAES} SAEs at once.")
    found = [sae if slug == sae.slug else await find_sae(session, slug) for slug in slugs]
    check_together(found)
    return found


def placed(changes: Sequence[Change], saes: Sequence[SaeRef]) -> list[PlacedIntervention]:
    """Return interventions with the places of their SAEs in a request, whose first SAE is the page's own."""
    places = {None: 0} | {sae.slug: place for place, sae in enumerate(saes)}
    return [PlacedIntervention(**one.model_dump() | {"sae": places[slug]}) for slug, one in changes]


def _prompt(texts: _Texts, prompt: GeneratedPrompt) -> tuple[ProbeToken, ...]:
    found = [texts.known[token_id] for token_id in prompt.token_ids]
    columns = zip(found, parts(prompt.text, prompt.ends), prompt.counted, prompt.roles, strict=True)
    return tuple(
        ProbeToken(
            id=token.id,
            bytes=without_added_space(token.bytes, part),
            text=part if counted or part else api_texts([token.bytes])[0],
            special=not counted,
            role=role,
        )
        for token, part, counted, role in columns
    )


@dataclass(slots=True)
class SideText:
    """One side's text so far."""

    tokens: list[NextToken] = field(default_factory=list)
    end: str = ""
    rest: str = ""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(token.text for token in self.tokens) + self.rest

    def whole_tokens(self) -> list[NextToken]:
        """Return the tokens, whose texts join to `text`."""
        *others, last = self.tokens
        return [*others, replace(last, text=last.text + self.rest)]


@dataclass(slots=True)
class Generated:
    """Everything that was generated."""

    prompt: tuple[ProbeToken, ...] = ()
    default: SideText = field(default_factory=SideText)
    changed: SideText = field(default_factory=SideText)
    shifts: list[PredictionShift] = field(default_factory=list)

    def add(self, part: GenerationPart) -> None:
        """Take the next part."""
        match part:
            case Prompt():
                self.prompt = part.tokens
            case NextToken():
                self.side(part.side).tokens.append(part)
            case PredictionShift():
                self.shifts.append(part)
            case SideEnd():
                side = self.side(part.side)
                side.end, side.rest = part.reason, part.text

    def side(self, name: Side) -> SideText:
        """Return one side."""
        return self.default if name == "default" else self.changed


async def generate_all(session: AsyncSession, inference: InferenceClient, sae: SaeDetail, wish: Wish) -> Generated:
    """Return everything at once; raises as `generate`."""
    whole = Generated()
    async for part in generate(session, inference, sae, wish):
        whole.add(part)
    return whole
