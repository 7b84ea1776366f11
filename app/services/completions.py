"""The OpenAI-compatible endpoint: which models it has, and one continuation of a prompt, live.

Neither the prompt nor what is generated is kept or logged.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import BadParameter, NoSuchModel, NotFound, Unprocessable
from app.queries.models import ModelInfo, TokenInfo, get_tokens
from app.queries.saes import SaeDetail, list_saes
from app.services.edits import find_edit
from app.services.generation import Change, placed, saes_to_change
from app.services.inference import InferenceClient
from app.services.inference_messages import (
    ChatMessage,
    CompletionEnd,
    CompletionRequest,
    CompletionStart,
    CompletionToken,
    ContextExceeded,
    LiveMonitor,
    SaeRef,
)
from app.services.live_monitors import UsableMonitor, usable_monitors
from app.services.probe import Prompt, check_prompt

_NAMES_IN_MESSAGE = 20

CompletionPart = CompletionStart | CompletionToken | CompletionEnd


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that the endpoint answers for, and its SAEs with weights, newest first."""

    model: ModelInfo
    saes: tuple[SaeDetail, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionWish:
    """A prompt to continue, and what is done to the model meanwhile; with `chat` it is that conversation, no text."""

    model: str
    """Its name, or the slug of one of its SAEs."""
    text: str = ""
    chat: Sequence[ChatMessage] | None = None
    max_new_tokens: int
    fill: bool = False
    """True to write fewer where the model's context holds no more."""
    temperature: float
    top_p: float
    seed: int
    stop: Sequence[str] = ()
    top: int = 0
    sae: str | None = None
    """That interventions are about which name no SAE; by default the model's newest."""
    interventions: Sequence[Change] = ()
    edits: Sequence[str] = ()
    monitors: Sequence[str | int] = ()
    stop_on_alert: bool = False
    edit_on_alert: str | None = None


@dataclass(frozen=True, slots=True)
class PreparedCompletion:
    """A request that makes sense, and the model that answers it."""

    served: ServedModel
    request: CompletionRequest
    monitors: tuple[UsableMonitor, ...]


async def served_models(session: AsyncSession) -> list[ServedModel]:
    """Return the models that have an SAE with weights here, the one of the newest SAE first."""
    saes: dict[int, list[SaeDetail]] = defaultdict(list)
    for sae in await list_saes(session):
        if sae.has_weights:
            saes[sae.model.id].append(sae)
    return [ServedModel(own[0].model, tuple(own)) for own in saes.values()]


async def find_served(session: AsyncSession, name: str) -> ServedModel:
    """Return the model of this name, or the one that an SAE of this name is of, which is then its first.

    Raises:
        NoSuchModel: there is none; the message names those that there are.
    """
    models = await served_models(session)
    for served in models:
        if served.model.name == name:
            return served
        for sae in served.saes:
            if sae.slug == name:
                return ServedModel(served.model, (sae, *(other for other in served.saes if other.id != sae.id)))
    known = ", ".join(served.model.name for served in models[:_NAMES_IN_MESSAGE])
    there_are = f"There are: {known}." if models else "There is none yet: train or import an SAE first."
    raise NoSuchModel(f"The model “{name[:80]}” is not here. {there_are}")


async def prepare(session: AsyncSession, wish: CompletionWish) -> PreparedCompletion:
    """Return the request to the inference process.

    Raises:
        NoSuchModel: the model is not here.
        BadParameter: an SAE or an edit is not there or is of another model, or the prompt cannot be read.
    """
    served = await find_served(session, wish.model)
    _check_prompt(wish)
    sae = _own_sae(served, wish.sae)
    slugs = list(dict.fromkeys([sae.slug, *(slug for slug, _ in wish.interventions if slug is not None)]))
    try:
        saes = [SaeRef.of(one) for one in await saes_to_change(session, sae, slugs)]
    except (NotFound, Unprocessable) as error:
        raise BadParameter(str(error), "seesae.interventions") from None
    monitors = await usable_monitors(session, wish.monitors, served.model)
    request = CompletionRequest(
        saes=saes,
        text=wish.text if wish.chat is None else "",
        chat=None if wish.chat is None else list(wish.chat),
        interventions=placed(wish.interventions, saes),
        edits=[await _edit(session, name, served.model, "seesae.edits") for name in wish.edits],
        monitors=[LiveMonitor(name=one.name, file=dict(one.file)) for one in monitors],
        on_alert="stop" if wish.stop_on_alert else "alert" if wish.edit_on_alert is None else "edit",
        alert_edit=await _alert_edit(session, wish, served.model),
        max_new_tokens=wish.max_new_tokens,
        fill=wish.fill,
        temperature=wish.temperature,
        top_p=wish.top_p,
        seed=wish.seed,
        stop=list(wish.stop),
        top=wish.top,
    )
    return PreparedCompletion(served, request, tuple(monitors))


async def complete(inference: InferenceClient, prepared: PreparedCompletion) -> AsyncGenerator[CompletionPart]:
    """Yield the start, each token as it comes, and the end.

    Raises:
        BadParameter: prompt and answer are longer than the model's context.
        Unprocessable: an intervention makes no sense, or the model has no chat format.
        TooLarge: there is not enough memory.
        Busy: too many requests are waiting.
        InferenceDown: the inference process does not answer.
    """
    async with aclosing(inference.complete(prepared.request)) as events:
        async for event in events:
            if isinstance(event, ContextExceeded):
                raise _context_exceeded(event, prepared.request)
            if isinstance(event, CompletionStart | CompletionToken | CompletionEnd):
                yield event


async def token_texts(session: AsyncSession, model: ModelInfo, ids: Collection[int]) -> Mapping[int, TokenInfo]:
    """Return the vocabulary entries of these tokens; no connection is held afterwards."""
    known = await get_tokens(session, model.id, ids)
    await session.commit()
    return known


def _check_prompt(wish: CompletionWish) -> None:
    try:
        check_prompt(Prompt(wish.text, None if wish.chat is None else tuple(wish.chat)))
    except Unprocessable as error:
        raise BadParameter(str(error), "prompt" if wish.chat is None else "messages") from None


def _own_sae(served: ServedModel, slug: str | None) -> SaeDetail:
    """Return the SAE that interventions are about which name none."""
    found = next((sae for sae in served.saes if slug in (None, sae.slug)), None)
    if found is None:
        names = ", ".join(sae.slug for sae in served.saes[:_NAMES_IN_MESSAGE])
        raise BadParameter(
            f"“{str(slug)[:80]}” is not an SAE of {served.model.name} with weights here. There are: {names}.",
            "seesae.sae",
        )
    return found


async def _alert_edit(session: AsyncSession, wish: CompletionWish, model: ModelInfo) -> str | None:
    if wish.edit_on_alert is None:
        return None
    return await _edit(session, wish.edit_on_alert, model, "seesae.on_alert.edit")


async def _edit(session: AsyncSession, name: str, model: ModelInfo, param: str) -> str:
    """Return the name of an edit of this model."""
    try:
        edit = await find_edit(session, name)
    except NotFound as error:
        raise BadParameter(str(error), param, "edit_not_found") from None
    if edit.model.id != model.id:
        raise BadParameter(f"The edit {name} is of {edit.model.name}, not of {model.name}.", param)
    return name


def _context_exceeded(event: ContextExceeded, request: CompletionRequest) -> BadParameter:
    new = f" and {event.max_new_tokens:,} more are asked for" if event.max_new_tokens else ""
    return BadParameter(
        f"The model's context is {event.context:,} tokens; the prompt has {event.prompt_tokens:,}{new}. "
        "Shorten the prompt, or ask for fewer.",
        "prompt" if request.chat is None else "messages",
        "context_length_exceeded",
    )
