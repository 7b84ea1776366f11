"""Generation with and without interventions, and sweeps, as the events that the site streams.

They yield None between passes of the model, where others can go in between.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from app.errors import TooLarge, Unprocessable
from app.inference.engine import ProbeEngine, ReadPrompt, counted_tokens, require_same_start
from app.services.inference_messages import (
    DirectionChoice,
    EditRequest,
    GeneratedEnd,
    GeneratedPrompt,
    GeneratedShift,
    GeneratedToken,
    GenerateRequest,
    GenerationEvent,
    PlacedIntervention,
    SaeRef,
    SweepBaseline,
    SweepEvent,
    SweepRequest,
    SweptPoint,
    TokenPositions,
)
from sae_core.interventions import (
    Edit,
    Event,
    Intervention,
    Positions,
    Sampling,
    Shift,
    Site,
    Step,
    Sweep,
    generate_side_by_side,
)
from sae_core.interventions.edits import edit_to_json
from sae_core.interventions.served import require_possible
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE, TopK

Placed = tuple[int, Intervention]
"""An intervention, and the place of its SAE in the request."""

MAX_FILE_BYTES = 64e6
"""Of an edit's file, which is a value in the database."""
_FILE_BYTES_PER_NUMBER = 4 * 4 / 3
"""Float32 in base64."""
_CACHES = 3
"""Key-value caches: of both sides, and of the default model that reads the changed text."""


def generate(engine: ProbeEngine, request: GenerateRequest) -> Generator[GenerationEvent | None]:
    """Yield the prompt's tokens and then what is generated; each step takes a pass or two of the model.

    Whoever calls it holds the turn while a step runs, not between steps.

    Raises:
        Unprocessable: an intervention makes no sense, or the model's context is too short.
        TooLarge: the prompt is too long, or there is not enough memory.
        Unavailable: the model or an SAE cannot be loaded, or memory ran out.
    """
    with engine.use(*request.saes) as (model, saes):
        prompt = _prompt(engine, model, saes, request, request.interventions)
        with engine.reserve(_working_bytes(model, len(prompt.token_ids), request.max_new_tokens)):
            sites = placed_sites(engine, model, saes, request.saes, required(request.interventions))
            require_possible(model, sites)
            counted = counted_tokens(model, prompt.token_ids)
            yield GeneratedPrompt(
                text=prompt.text,
                token_ids=prompt.token_ids,
                ends=prompt.ends,
                counted=counted.tolist(),
                roles=[token.role for token in prompt.tokens],
            )
            for event in generate_side_by_side(model, prompt.token_ids, sites, _sampling(request)):
                yield _event(event)


def sweep(engine: ProbeEngine, request: SweepRequest) -> Generator[SweepEvent | None]:
    """Yield the default model's continuation, and the measures at each strength; raises as `generate`."""
    with engine.use(*request.saes) as (model, saes):
        every = [request.interventions, *([] if request.control is None else [request.control])]
        prompt = _prompt(engine, model, saes, request, [one for changes in every for one in changes])
        with engine.reserve(_working_bytes(model, len(prompt.token_ids), request.max_new_tokens)):
            series = [_placed(engine, model, saes, request.saes, required(changes)) for changes in every]
            points = [
                (control, value, _grouped(request.saes, saes, _at(placed, value)))
                for value in request.values
                for control, placed in zip((False, True), series, strict=False)
            ]
            require_possible(model, [site for _, _, sites in points for site in sites])
            measured = Sweep(model, prompt.token_ids, _sampling(request), request.promoted)
            baseline = yield from measured.baseline()
            yield SweepBaseline(token_ids=baseline.token_ids, loss=baseline.loss, repetition=baseline.repetition)
            for control, value, sites in points:
                point = yield from measured.point(sites)
                yield SweptPoint(
                    control=control,
                    value=value,
                    token_ids=point.token_ids,
                    kl=point.kl,
                    loss=point.loss,
                    repetition=point.repetition,
                    promoted=point.promoted,
                )


def edit_file(engine: ProbeEngine, request: EditRequest) -> str:
    """Return the file of an edit, as JSON.

    Raises:
        Unprocessable, Unavailable: as `generate`.
    """
    with engine.use(*request.saes) as (model, saes):
        sites = placed_sites(engine, model, saes, request.saes, required(request.interventions))
        _check_size(sites)
        hashes = {ref.slug: ref.weights_sha256 for ref in request.saes}
        edit = Edit.of(request.name, model, sites, saes=hashes)
        return json.dumps(edit_to_json(replace(edit, model_name=request.saes[0].model.name)))


def _check_size(sites: Sequence[Site]) -> None:
    whole = [site.sae for site in sites if isinstance(site.sae, TopK) and site.encoded]
    size = _FILE_BYTES_PER_NUMBER * sum(parameter.numel() for sae in whole for parameter in sae.parameters())
    if size > MAX_FILE_BYTES:
        raise TooLarge(
            "All features of a TopK compete, so an edit that reads one holds the SAE whole: "
            f"{size / 1e6:,.0f} MB, and at most {MAX_FILE_BYTES / 1e6:,.0f} MB are kept. Add to the feature instead, "
            "which needs no activations."
        )


def _at(placed: Sequence[Placed], value: float) -> list[Placed]:
    """Return the interventions with this value for the first."""
    (place, first), *others = placed
    return [(place, replace(first, value=value)), *others]


def _prompt(
    engine: ProbeEngine,
    model: LanguageModel,
    saes: Sequence[SAE],
    request: GenerateRequest,
    changes: Sequence[PlacedIntervention],
) -> ReadPrompt:
    """Return the prompt, once its positions are those that are asked for."""
    require_same_start(request.saes, saes)
    prompt = engine.read_prompt(model, saes[0], request.text, request.chat)
    tokens = len(prompt.token_ids)
    for asked in changes:
        check_positions(asked, tokens, tokens + request.max_new_tokens)
    return prompt


def _sampling(request: GenerateRequest) -> Sampling:
    return Sampling(request.max_new_tokens, request.temperature, request.seed, tuple(request.stop), request.top)


def _event(event: Event) -> GenerationEvent:
    if isinstance(event, Step):
        return GeneratedToken(side=event.side, id=event.token_id, log_probability=event.log_probability, top=event.top)
    if isinstance(event, Shift):
        return GeneratedShift(position=event.position, kl=event.kl, raised=event.raised, lowered=event.lowered)
    return GeneratedEnd(side=event.side, reason=event.reason)


def _working_bytes(model: LanguageModel, prompt: int, new: int) -> int:
    """Estimate the memory: keys and values of each layer, and four distributions for each token."""
    return 4 * (_CACHES * 2 * model.n_layers * (prompt + new) * model.d_model + 4 * (prompt + new) * model.vocab_size)


def required(changes: Sequence[PlacedIntervention]) -> Sequence[PlacedIntervention]:
    """Return the interventions.

    Raises:
        Unprocessable: there are none.
    """
    if not changes:
        raise Unprocessable("There is nothing to change: give at least one intervention.")
    return changes


def placed_sites(
    engine: ProbeEngine,
    model: LanguageModel,
    saes: Sequence[SAE],
    refs: Sequence[SaeRef],
    interventions: Sequence[PlacedIntervention],
) -> list[Site]:
    """Return what is done at each SAE's hook point."""
    return _grouped(refs, saes, _placed(engine, model, saes, refs, interventions))


def _placed(
    engine: ProbeEngine,
    model: LanguageModel,
    saes: Sequence[SAE],
    refs: Sequence[SaeRef],
    changes: Sequence[PlacedIntervention],
) -> list[Placed]:
    return [(one.sae, _intervention(engine, model, refs[one.sae], saes[one.sae], one)) for one in changes]


def _grouped(refs: Sequence[SaeRef], saes: Sequence[SAE], placed: Sequence[Placed]) -> list[Site]:
    sites = []
    for place, (ref, sae) in enumerate(zip(refs, saes, strict=True)):
        own = [one for at, one in placed if at == place]
        if own:
            write = None if ref.hook_out is None else HookPoint.parse(ref.hook_out)
            sites.append(Site(HookPoint.parse(ref.hook), own, sae, write))
    return sites


def _intervention(
    engine: ProbeEngine, model: LanguageModel, ref: SaeRef, sae: SAE, asked: PlacedIntervention
) -> Intervention:
    along, direction = None, None
    if asked.direction is not None:
        direction = _direction(engine, model, ref, sae, asked.direction)
    if asked.random_direction is not None:
        if asked.feature is not None:
            along = _random_direction(asked.random_direction, _decoder_row(sae, asked.feature))
        elif direction is not None:
            direction = _random_direction(asked.random_direction, direction)
    return Intervention(
        asked.op,
        asked.value,
        feature=asked.feature,
        direction=direction,
        along=along,
        positions=_positions(asked),
        special_tokens=asked.special_tokens,
    )


def check_positions(asked: PlacedIntervention, prompt: int, most: int) -> None:
    """Refuse positions that the text never has.

    Raises:
        Unprocessable: there is one.
    """
    match asked.positions:
        case (first, _):
            beyond = first
        case TokenPositions():
            beyond = max(asked.positions.tokens)
        case _:
            return
    if beyond >= most:
        raise Unprocessable(
            f"There is no token {beyond}: the prompt has {prompt}, counted from 0, and with the new ones there are at "
            f"most {most}."
        )


def _positions(asked: PlacedIntervention) -> Positions:
    return frozenset(asked.positions.tokens) if isinstance(asked.positions, TokenPositions) else asked.positions


def _direction(
    engine: ProbeEngine, model: LanguageModel, ref: SaeRef, sae: SAE, asked: DirectionChoice
) -> Float[Tensor, " d_out"]:
    if asked.vector is not None:
        return torch.tensor(asked.vector)
    if asked.feature is not None:
        return _decoder_row(sae, asked.feature)
    hook = HookPoint.parse(ref.hook_out or ref.hook)
    means = [_mean(engine, model, hook, sae, texts) for texts in (asked.positive or [], asked.negative or [])]
    difference = means[0] - means[1]
    unit: Tensor = difference / torch.linalg.vector_norm(difference).clamp_min(1e-12)
    return unit


def _decoder_row(sae: SAE, feature: int) -> Float[Tensor, " d_out"]:
    if not 0 <= feature < sae.d_sae:
        raise Unprocessable(f"There is no feature {feature}: the SAE's features are 0 to {sae.d_sae - 1}.")
    row: Tensor = sae.W_dec[feature]
    return row


def _random_direction(seed: int, row: Float[Tensor, " d_out"]) -> Float[Tensor, " d_out"]:
    """Return a random direction with the norm of `row`."""
    drawn = torch.randn(len(row), generator=torch.Generator().manual_seed(seed)).to(row)
    scaled: Tensor = drawn * (torch.linalg.vector_norm(row) / torch.linalg.vector_norm(drawn))
    return scaled


def _mean(
    engine: ProbeEngine, model: LanguageModel, hook: HookPoint, sae: SAE, texts: Sequence[str]
) -> Float[Tensor, " d_out"]:
    """Return the mean activation on the counted tokens of some texts."""
    total, count = torch.zeros(model.d_in(hook), device=model.device), 0
    for text in texts:
        token_ids = engine.tokenize(model, sae, text)
        counted = torch.from_numpy(counted_tokens(model, token_ids)).to(model.device)
        total += model.activations(torch.tensor([token_ids]), hook)[0][counted].sum(dim=0)
        count += int(counted.sum())
    if not count:
        raise Unprocessable("DiffMean needs words on both sides: give each list at least one text.")
    return total / count
