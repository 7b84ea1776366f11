"""Examples cut to one line, as markup.

A page shows sixty lines of some forty tokens, most of them repeated, neither active nor special: what depends on a
token's bytes alone is kept, and only the others become objects. All text of tokens is escaped here or in `token_html`.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from markupsafe import Markup

from app.queries.examples import ExampleView, plain_bytes
from app.services.tokens import display
from app.web.components import token_html, token_text

_BEFORE = 64
_AFTER = 88
"""Characters on each side of an example's own token, which fill one line of a wide screen."""


class Line(NamedTuple):
    """Markup of an example's own token, and of what stands before and after it on the line."""

    before: str
    token: str
    after: str


def cut(example: ExampleView, maximum: float) -> Line:
    """Return an example cut to one line around its own token, shaded relative to the feature's maximum."""
    here = example.position - example.start
    before, directions = _side(example, maximum, range(here - 1, -1, -1), _BEFORE)
    return Line(
        before=_joined(before[::-1], directions[::-1]),
        token=token_html.light(token_text.token_of_line(example, here, maximum)),
        after=_joined(*_side(example, maximum, range(here + 1, len(example.tokens)), _AFTER)),
    )


def markup(line: Line, mini: bool = False) -> Markup:
    """Return the line with its own token in a fixed column; plain tokens have no element."""
    return Markup(  # noqa: S704 - escaped
        f'<span class="line{" mini" if mini else ""}"><span class="line-before"><span>{line.before}</span></span>'
        f'<span class="line-after"><bdi>{line.token}</bdi>{line.after}</span></span>'
    )


class _Plain(NamedTuple):
    """A token without shade or note: its markup, its characters, and its direction, None if it has none."""

    html: str
    width: int
    right_to_left: bool | None


@lru_cache(maxsize=65_536)
def _plain(raw: bytes) -> _Plain:
    pieces = display(raw)
    return _Plain(token_html.token(raw), sum(len(piece.text) for piece in pieces), token_text.right_to_left(pieces))


def _side(example: ExampleView, maximum: float, places: range, characters: int) -> tuple[list[str], list[bool | None]]:
    """Return the tokens at `places` that fit into so many characters, and the direction of each."""
    shown: list[str] = []
    directions: list[bool | None] = []
    for place, raw in zip(places, plain_bytes(example, places), strict=True):
        if raw is None:
            token = token_text.token_of_line(example, place, maximum)
            _, width, direction = _plain(token.raw)
            html = token_html.light(token)
        else:
            html, width, direction = _plain(raw)
        shown.append(html)
        directions.append(direction)
        characters -= width
        if characters <= 0:
            break
    return shown, directions


def _joined(shown: list[str], directions: Sequence[bool | None]) -> str:
    """Return tokens of these directions in a row; those from right to left keep together."""
    if True not in directions:
        return "".join(shown)
    runs = groupby(zip(token_text.resolved(directions), shown, strict=True), key=itemgetter(0))
    texts = ((right_to_left, "".join(html for _, html in run)) for right_to_left, run in runs)
    return "".join(f'<bdi dir="rtl">{text}</bdi>' if right_to_left else text for right_to_left, text in texts)
