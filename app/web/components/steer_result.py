"""Both texts on the steering page: words for the changes, shaded tokens, where predictions moved most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.features import get_feature
from app.queries.saes import SaeDetail
from app.services.controls import named_sae
from app.services.generation import Change, Generated, NextToken, PredictionShift, Wish
from app.services.inference_messages import InterventionChoice, TokenPositions
from app.services.tokens import Piece, display, plain
from app.web.components.formatting import percent, significant
from app.web.components.snippets import steering_snippet
from app.web.components.steer_form import SteerForm, spelled
from app.web.components.steer_subject import label_of

_MOST_CHANGED = 6
"""Positions in the table of predictions that changed most."""
_STEPS = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0)
"""KL in nats from which a token gets the next shade."""


@dataclass(frozen=True, slots=True)
class ChangeView:
    """One change in words: `before` the subject's name, and `after` it."""

    before: str
    name: str
    href: str
    """Empty for a direction."""
    after: str


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A generated token: its shade says how much the prediction at its place changed."""

    text: str
    shade: int
    note: str


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of the prompt, as a button that chooses it."""

    position: int
    pieces: tuple[Piece, ...]
    special: bool
    role: str
    """Of its turn, where the turn begins; else empty."""
    chosen: bool
    note: str
    shade: int


@dataclass(frozen=True, slots=True)
class ControlView:
    """The text of a control."""

    kind: str
    seed: int
    changes: list[ChangeView]
    tokens: list[ShownToken]
    mean_kl: float
    same: bool


async def change_views(session: AsyncSession, sae: SaeDetail, changes: Sequence[Change]) -> list[ChangeView]:
    """Return the changes in words."""
    return [await _change_view(session, sae, slug, change) for slug, change in changes]


async def _change_view(
    session: AsyncSession, sae: SaeDetail, slug: str | None, change: InterventionChoice
) -> ChangeView:
    href = ""
    if change.feature is not None:
        own = await named_sae(session, sae, slug)
        detail = await get_feature(session, own, change.feature)
        label = None if detail is None else label_of(detail)
        name = label or f"feature {change.feature}"
        if own.id != sae.id:
            name = f"{name} of {own.slug}"
        href = f"/saes/{own.slug}/features/{change.feature}"
    else:
        name = _direction_name(change)
    if change.random_direction is not None:
        name = f"a random direction of the length of {name}"
    value = significant(change.value)
    match change.op:
        case "ablate":
            return ChangeView("", name, href, "ablated" if change.feature is not None else "projected out")
        case "clamp":
            return ChangeView("", name, href, f"set to {value}")
        case "scale":
            return ChangeView("", name, href, f"multiplied by {value}")
        case _:
            return ChangeView(f"{value} ×", name, href, "added")


def _direction_name(change: InterventionChoice) -> str:
    assert change.direction is not None
    if change.direction.feature is not None:
        return f"the decoder row of feature {change.direction.feature}"
    return "the uploaded direction" if change.direction.vector is not None else "DiffMean of the two lists"


def _where(changes: Sequence[Change]) -> str:
    change = changes[0][1]
    match change.positions:
        case (first, end):
            return f"on tokens {first} to {end - 1}" if end - first > 1 else f"on token {first}"
        case TokenPositions():
            return f"on tokens {spelled(set(change.positions.tokens))}"
        case "all":
            return "on every token" if change.special_tokens else "on every token but BOS"
        case "prompt":
            return "on the prompt"
        case _:
            return "on the new text"


async def steered(
    session: AsyncSession, sae: SaeDetail, form: SteerForm, wish: Wish, whole: Generated
) -> dict[str, Any]:
    """Return what the result's template needs, without a control."""
    saes = {slug: await named_sae(session, sae, slug) for slug, _ in wish.interventions}
    shifts = {shift.position: shift for shift in whole.shifts}
    texts = [plain(token.bytes) for token in whole.prompt] + [plain(token.bytes) for token in whole.changed.tokens]
    most = sorted(whole.shifts, key=lambda shift: -shift.kl)[:_MOST_CHANGED]
    return {
        "error": None,
        "result": whole,
        "swept": None,
        "control": None,
        "prompt_tokens": _prompt_tokens(whole, wish, shifts),
        "default_tokens": [shown_token(token, None) for token in whole.default.whole_tokens()],
        "changed_tokens": _changed_tokens(whole),
        "mean_kl": _mean_kl(whole),
        "most_changed": [(texts[shift.position], shift) for shift in most if shift.kl > 0],
        "same": _same(whole),
        "changes": await change_views(session, sae, wish.interventions),
        "where": _where(wish.interventions),
        "link": form.link(sae.slug),
        "edit_changes": [change.model_dump(mode="json") | {"sae": slug} for slug, change in wish.interventions],
        "edit_prompt": wish.text if wish.chat is None else "".join(token.text for token in whole.prompt),
        "edit_before": whole.default.text,
        "edit_after": whole.changed.text,
        "snippet": steering_snippet(sae, wish, saes),
        "has_index": sae.index is not None,
        "diff_mean": bool(form.direction.positive.strip() and form.direction.negative.strip()),
    }


def control_view(kind: str, seed: int, whole: Generated, changes: list[ChangeView]) -> ControlView:
    """Return the text of a control beside the others."""
    return ControlView(kind, seed, changes, _changed_tokens(whole), _mean_kl(whole), _same(whole))


def _same(whole: Generated) -> bool:
    return [token.id for token in whole.default.tokens] == [token.id for token in whole.changed.tokens]


def _mean_kl(whole: Generated) -> float:
    """Return the mean KL of the predictions of new tokens."""
    own = [shift.kl for shift in whole.shifts if shift.position >= len(whole.prompt) - 1]
    return sum(own) / len(own) if own else 0.0


def _changed_tokens(whole: Generated) -> list[ShownToken]:
    shifts, start = {shift.position: shift for shift in whole.shifts}, len(whole.prompt)
    return [
        shown_token(token, shifts.get(start + place - 1)) for place, token in enumerate(whole.changed.whole_tokens())
    ]


def _prompt_tokens(whole: Generated, wish: Wish, shifts: dict[int, PredictionShift]) -> list[PromptToken]:
    positions = wish.interventions[0][1].positions
    match positions:
        case (first, end):
            chosen = set(range(first, end))
        case TokenPositions():
            chosen = set(positions.tokens)
        case _:
            chosen = set()
    shown, role = [], None
    for position, token in enumerate(whole.prompt):
        shift = shifts.get(position)
        kl = 0.0 if shift is None else shift.kl
        note = f"position {position} · token {token.id}\nnext prediction: KL {significant(kl)} nats"
        begins = token.role is not None and token.role != role
        role = token.role
        shown.append(
            PromptToken(
                position,
                display(token.bytes),
                token.special,
                token.role or "" if begins else "",
                position in chosen,
                note,
                _shade(kl),
            )
        )
    return shown


def shown_token(token: NextToken, shift: PredictionShift | None) -> ShownToken:
    """Return a generated token with what a pointer over it says."""
    lines = [f"{plain(one.bytes)} {percent(math.exp(one.log_probability))}" for one in token.top[:4]]
    lines.insert(0, f"log-probability {significant(token.log_probability)}")
    if shift is not None:
        lines.insert(1, f"KL {significant(shift.kl)} nats")
    return ShownToken(token.text, 0 if shift is None else _shade(shift.kl), "\n".join(lines))


def _shade(kl: float) -> int:
    return sum(kl >= least for least in _STEPS)
