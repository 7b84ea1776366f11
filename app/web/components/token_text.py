"""Tokens as a page shows them: shaded by activation, grouped by writing direction.

`token_html` and the templates in `macros/strips.html` turn these into markup; nothing here knows HTML. A page shows
thousands of tokens, most of them repeated, so properties of a token's bytes alone are cached.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from app.queries.examples import ExampleView
from app.services.tokens import Piece, display
from app.web.components.formatting import percent, significant

STEPS = 6
"""Shades of activation, evenly spaced in lightness; the sheet's `--act-1` to `--act-6`."""


class ShownToken(NamedTuple):
    """A token with its shade (0 for none) and the note that hover and focus show."""

    raw: bytes
    special: bool
    step: int
    strongest: bool
    note: str
    position: int

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Return the pieces to draw."""
        return display(self.raw)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one writing direction."""

    right_to_left: bool
    tokens: tuple[ShownToken, ...]


def step(activation: float, maximum: float) -> int:
    """Return the shade of an activation relative to the feature's maximum: 0 at zero, else 1 to `STEPS`."""
    if activation <= 0 or maximum <= 0:
        return 0
    return min(STEPS, max(1, math.ceil(STEPS * activation / maximum)))


def note(token_id: int, position: int, activation: float, maximum: float) -> str:
    """Return the note of a token, which hover and focus show."""
    place = f"token {token_id} · position {position}"
    return f"{strength(activation, maximum)}\n{place}" if activation > 0 else f"not active\n{place}"


def strength(activation: float, maximum: float) -> str:
    """Return an activation in the words of a note."""
    return f"{significant(activation)} · {percent(activation / maximum)} of the maximum"


def sequence(example: ExampleView, maximum: float) -> tuple[Run, ...]:
    """Return all tokens of an example, each with its note."""
    places = range(len(example.tokens))
    return _runs(_shown(example, place, maximum, always_noted=True) for place in places)


def token_at(example: ExampleView, place: int, maximum: float) -> ShownToken:
    """Return one active token of an example, by its place in the example; its note is its activation."""
    token = example.tokens[place]
    return ShownToken(
        raw=token.bytes,
        special=token.special,
        step=step(token.activation, maximum),
        strongest=token.activation == example.peak,
        note=strength(token.activation, maximum),
        position=example.start + place,
    )


def token_of_line(example: ExampleView, place: int, maximum: float) -> ShownToken:
    """Return a token of an example, by its place in it; an inactive one has no note."""
    return _shown(example, place, maximum, always_noted=False)


def plain_runs(
    tokens: Sequence[tuple[int, bytes, bool]],
    note_of: Callable[[int], str],
    step_of: Callable[[int], int],
    strongest: int,
) -> tuple[Run, ...]:
    """Return tokens (id, bytes, special) of any text, such as a prompt; `strongest` is a position, -1 for none."""
    return _runs(
        ShownToken(
            raw=raw,
            special=special,
            step=step_of(position),
            strongest=position == strongest,
            note=note_of(position),
            position=position,
        )
        for position, (_, raw, special) in enumerate(tokens)
    )


def shown_runs(tokens: Iterable[ShownToken]) -> tuple[Run, ...]:
    """Return tokens grouped by direction."""
    return _runs(tokens)


def _shown(example: ExampleView, place: int, maximum: float, *, always_noted: bool) -> ShownToken:
    token, position = example.tokens[place], example.start + place
    shade = step(token.activation, maximum)
    return ShownToken(
        raw=token.bytes,
        special=token.special,
        step=shade,
        strongest=0 < token.activation == example.peak,
        note=note(token.id, position, token.activation, maximum) if always_noted or shade else "",
        position=position,
    )


@lru_cache(maxsize=65_536)
def _direction(raw: bytes) -> bool | None:
    return right_to_left(display(raw))


def _runs(tokens: Iterable[ShownToken]) -> tuple[Run, ...]:
    """Group tokens by direction."""
    shown = list(tokens)
    strong = [_direction(token.raw) for token in shown]
    if True not in strong:
        return (Run(False, tuple(shown)),) if shown else ()
    pairs = zip(resolved(strong), shown, strict=True)
    return tuple(Run(key, tuple(token for _, token in group)) for key, group in groupby(pairs, key=itemgetter(0)))


def resolved(strong: Sequence[bool | None]) -> list[bool]:
    """Return a direction for all: a token without one, such as a space, is right-to-left only between two that are."""
    follows, ahead = [False] * len(strong), False
    for i in reversed(range(len(strong))):
        follows[i] = ahead
        ahead = ahead if strong[i] is None else bool(strong[i])
    directions, behind = [], False
    for direction, is_followed in zip(strong, follows, strict=True):
        directions.append(behind and is_followed if direction is None else direction)
        behind = behind if direction is None else direction
    return directions


def right_to_left(pieces: Iterable[Piece]) -> bool | None:
    """True if the first character with a strong direction is right-to-left, None if there is none."""
    for piece in pieces:
        if piece.kind != "text":
            continue
        for character in piece.text:
            kind = unicodedata.bidirectional(character)
            if kind == "L":
                return False
            if kind in ("R", "AL"):
                return True
    return None
