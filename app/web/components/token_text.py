"""Tokens as a page shows them: shaded by activation, grouped by writing direction, cut to one line.

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

from app.queries.examples import ExampleView, plain_bytes
from app.services.tokens import Piece, display
from app.web.components.formatting import percent, significant

STEPS = 6
"""Shades of activation, evenly spaced in lightness; the sheet's `--act-1` to `--act-6`."""

_BEFORE = 64
_AFTER = 88
"""Characters on each side of an example's own token, which fill one line of a wide screen."""


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


@dataclass(frozen=True, slots=True)
class LineRun:
    """As `Run`, where a token that has neither shade nor note is its bytes alone: most of a page's tokens are."""

    right_to_left: bool
    tokens: tuple[ShownToken | bytes, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """An example on one line: its own token, and the runs before and after it."""

    before: tuple[LineRun, ...]
    token: ShownToken
    after: tuple[LineRun, ...]


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
    view = _TokenView(example, maximum)
    return _runs(view.token(place, always_noted=True) for place in range(len(example.tokens)))


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


def line(example: ExampleView, maximum: float) -> Line:
    """Return an example cut to one line around its own token. Only tokens on the line are prepared."""
    view = _TokenView(example, maximum)
    here = example.position - example.start
    before, directions = _side(view, range(here - 1, -1, -1), _BEFORE)
    return Line(
        before=_line_runs(before[::-1], directions[::-1]),
        token=view.token(here),
        after=_line_runs(*_side(view, range(here + 1, len(example.tokens)), _AFTER)),
    )


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


class _TokenView:
    """Tokens of one example as a page shows them, by their place in it."""

    def __init__(self, example: ExampleView, maximum: float) -> None:
        self.example = example
        self.tokens = example.tokens
        self.start = example.start
        self.maximum = maximum
        self.peak = example.peak

    def token(self, place: int, *, always_noted: bool = False) -> ShownToken:
        """Return a token; an inactive one has a note only if `always_noted`."""
        token = self.tokens[place]
        position = self.start + place
        shade = step(token.activation, self.maximum)
        noted = always_noted or shade
        return ShownToken(
            raw=token.bytes,
            special=token.special,
            step=shade,
            strongest=0 < token.activation == self.peak,
            note=note(token.id, position, token.activation, self.maximum) if noted else "",
            position=position,
        )


class _Shape(NamedTuple):
    """Width and direction of a token; `right_to_left` is None if no character has a direction."""

    width: int
    right_to_left: bool | None


@lru_cache(maxsize=65_536)
def _shape(raw: bytes) -> _Shape:
    pieces = display(raw)
    return _Shape(sum(len(piece.text) for piece in pieces), _right_to_left(pieces))


def _side(
    view: _TokenView, places: Iterable[int], characters: int
) -> tuple[list[ShownToken | bytes], list[bool | None]]:
    """Return the tokens at `places` that fit into so many characters, and the direction of each."""
    kept: list[ShownToken | bytes] = []
    directions: list[bool | None] = []
    plain = plain_bytes(view.example)
    for place in places:
        if characters <= 0:
            break
        raw = plain(place)
        if raw is None:
            token = view.token(place)
            shape = _shape(token.raw)
            kept.append(token)
        else:
            shape = _shape(raw)
            kept.append(raw)
        directions.append(shape.right_to_left)
        characters -= shape.width
    return kept, directions


def _line_runs(shown: list[ShownToken | bytes], strong: list[bool | None]) -> tuple[LineRun, ...]:
    """Group tokens of these directions."""
    if True not in strong:
        return (LineRun(False, tuple(shown)),) if shown else ()
    pairs = zip(_resolved(strong), shown, strict=True)
    return tuple(LineRun(key, tuple(token for _, token in group)) for key, group in groupby(pairs, key=itemgetter(0)))


def _runs(tokens: Iterable[ShownToken]) -> tuple[Run, ...]:
    """Group tokens by direction."""
    shown = list(tokens)
    strong = [_shape(token.raw).right_to_left for token in shown]
    if True not in strong:
        return (Run(False, tuple(shown)),) if shown else ()
    pairs = zip(_resolved(strong), shown, strict=True)
    return tuple(Run(key, tuple(token for _, token in group)) for key, group in groupby(pairs, key=itemgetter(0)))


def _resolved(strong: Sequence[bool | None]) -> list[bool]:
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


def _right_to_left(pieces: Iterable[Piece]) -> bool | None:
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
