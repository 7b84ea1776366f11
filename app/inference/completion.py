"""Continue one text for the OpenAI-compatible endpoint: changed token by token, and ended by stops.

It yields None between passes of the model, where others can go in between.
"""

import json
from collections.abc import Generator, Iterator, Sequence

from app.errors import Unprocessable
from app.inference.engine import ProbeEngine, require_same_start
from app.inference.held_text import HeldText
from app.inference.steering import check_positions, placed_sites
from app.services.inference_messages import (
    CompletionEnd,
    CompletionEvent,
    CompletionRequest,
    CompletionStart,
    CompletionToken,
    ContextExceeded,
)
from sae_core.interventions import Edit, Sampling
from sae_core.interventions.edits import edit_from_json
from sae_core.interventions.generation import Generation
from sae_core.models import LanguageModel

_ANY_LENGTH = 10**9
"""Of a prompt, in tokens: the model's context is compared with prompt and answer together."""


def parse_edits(files: Sequence[str], names: Sequence[str]) -> list[Edit]:
    """Return saved edits from their files; one that cannot be read raises `InterventionError`."""
    return [edit_from_json(json.loads(file), name) for file, name in zip(files, names, strict=True)]


def complete(
    engine: ProbeEngine, request: CompletionRequest, edits: Sequence[Edit] = ()
) -> Generator[CompletionEvent | None]:
    """Yield the start, then each token as its text is certain, then the end; or that the context is too short.

    Whoever calls it holds the turn while a step runs, not between steps.

    Raises:
        Unprocessable: an intervention makes no sense, an edit is of another model, or the model has no chat format.
        TooLarge: there is not enough memory.
        Unavailable: the model or an SAE cannot be loaded, or memory ran out.
    """
    with engine.use(*request.saes) as (model, saes):
        require_same_start(request.saes, saes)
        prompt = engine.read_prompt(model, saes[0], request.text, request.chat, max_tokens=_ANY_LENGTH).token_ids
        new = _new_tokens(model, request, len(prompt))
        if isinstance(new, ContextExceeded):
            yield new
            return
        for change in request.interventions:
            check_positions(change, len(prompt), len(prompt) + new)
        for edit in edits:
            edit.check_model(model)
        with engine.reserve(_working_bytes(model, len(prompt), new)):
            sites = placed_sites(engine, model, saes, request.saes, request.interventions)
            sites += [site for edit in edits for site in edit.sites_on(model.device)]
            sampling = Sampling(new, request.temperature, request.seed, top=request.top, top_p=request.top_p)
            text = Generation(model, prompt, sampling, sites, last_only=True)
            yield from _continued(text, HeldText(request.stop))


def _continued(text: Generation, held: HeldText) -> Generator[CompletionEvent | None]:
    model = text.model
    _, step = text.step()
    yield CompletionStart(prompt_tokens=len(text.prompt))
    while True:
        if step.token_id in model.end_token_ids:
            yield from _ended(held, text, "end of text")
            return
        token = CompletionToken(id=step.token_id, text="", log_probability=step.log_probability, top=step.top)
        yield from held.add(token, _raw(model, step.token_id))
        if held.stopped or text.end is not None:
            yield from _ended(held, text, "stop" if held.stopped else "length")
            return
        yield None
        _, step = text.step()


def _ended(held: HeldText, text: Generation, reason: str) -> Iterator[CompletionEvent]:
    yield from held.rest()
    yield CompletionEnd(reason=reason, text=held.last_characters(), tokens=len(text.token_ids))  # type: ignore[arg-type]


def _raw(model: LanguageModel, token_id: int) -> bytes:
    """Return the bytes of a token as an answer has them: special tokens are not text."""
    return b"" if token_id in model.special_token_ids else model.token_bytes()[token_id]


def _new_tokens(model: LanguageModel, request: CompletionRequest, prompt: int) -> int | ContextExceeded:
    """Return how many tokens to write at most."""
    if not prompt:
        raise Unprocessable("The prompt is empty: give it some text.")
    context = model.context_length or _ANY_LENGTH
    room = context - prompt
    new = min(request.max_new_tokens, room) if request.fill and room > 0 else request.max_new_tokens
    if new <= room:
        return new
    return ContextExceeded(prompt_tokens=prompt, max_new_tokens=0 if request.fill else new, context=context)


def _working_bytes(model: LanguageModel, prompt: int, new: int) -> int:
    """Estimate the memory: keys and values of each layer, a block's activations, and a few distributions."""
    cache = 2 * model.n_layers * (prompt + new) * model.d_model
    return 4 * (cache + 20 * prompt * model.d_model + 8 * model.vocab_size)
