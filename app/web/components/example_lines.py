"""Examples cut to one line, as markup.

A page shows sixty lines of some forty tokens. Most are not active: the markup of such a token is made once for each
entry of a vocabulary, and only active tokens have their own. `token_html` escapes all text of tokens.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from typing import NamedTuple
from weakref import WeakKeyDictionary, ref

from markupsafe import Markup, escape

from app.queries.examples import ExampleView
from app.queries.models import Vocabulary
from app.web.components import token_html, token_text
from app.web.components.formatting import significant
from app.web.components.token_text import ShownToken

BEFORE = 64
AFTER = 88
"""Characters on each side of an example's own token, which fill one line of a wide screen; so many tokens on each
side are enough, because none is shorter than one."""

_AT_ONCE = 24
"""Tokens that are prepared before the characters are counted: most lines need no more on either side."""


class Line(NamedTuple):
    """Markup of an example's own token, and of what stands before and after it on the line."""

    before: str
    token: str
    after: str


@dataclass(frozen=True, slots=True)
class Example:
    """An example on one line; `text` is all of it, for a page without a server to fetch it from."""

    view: ExampleView
    line: Line
    text: Markup | None = None

    @classmethod
    def of(cls, view: ExampleView, maximum: float, text: Markup | None = None) -> "Example":
        """Return the example shaded relative to the feature's maximum."""
        return cls(view, cut(view, maximum), text)


def cut(example: ExampleView, maximum: float) -> Line:
    """Return an example cut to one line around its own token, shaded relative to the feature's maximum."""
    here = example.position - example.start
    return Line(
        before=_joined(_filling(example, maximum, range(here - 1, -1, -1), BEFORE)[::-1]),
        token=_active(example, here, maximum).html,
        after=_joined(_filling(example, maximum, range(here + 1, len(example.tokens)), AFTER)),
    )


def markup(line: Line, mini: bool = False) -> Markup:
    """Return the line with its own token in a fixed column; plain tokens have no element."""
    return Markup(  # noqa: S704 - escaped
        f'<span class="line{" mini" if mini else ""}"><span class="line-before"><span>{line.before}</span></span>'
        f'<span class="line-after"><bdi>{line.token}</bdi>{line.after}</span></span>'
    )


def listed(examples: Iterable[Example], here: str) -> Markup:
    """Return examples as lines that open, each fetching its sequence from below `here`, the feature's page."""
    page = escape(here)
    entries = "".join(_entry(example, page) for example in examples)
    return Markup(f'<ol class="examples" data-busy="Fetching the sequence">\n{entries}</ol>')  # noqa: S704 - escaped


def _entry(example: Example, page: str) -> str:
    band = f"?band={example.view.band}" if example.view.band else ""
    address = f"{page}/examples/{example.view.sequence}{band}"
    return (
        f'<li class="example"><a class="example-line" data-row href="{address}" hx-get="{address}" '
        'hx-target="next .example-open" hx-swap="innerHTML" aria-expanded="false">'
        f'<span class="example-value number">{significant(example.view.activation)}</span>{markup(example.line)}</a>'
        '<div class="example-open"></div></li>\n'
    )


class _Token(NamedTuple):
    """Markup of a token, its characters, and its direction, None if it has none."""

    html: str
    width: int
    right_to_left: bool | None


class _Inactive(dict[int, _Token]):
    """The tokens of a vocabulary as they look where the feature is not active, by id; each is made once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = ref(vocabulary)

    def __missing__(self, token_id: int) -> _Token:
        vocabulary = self._vocabulary()
        assert vocabulary is not None, "whoever asks holds it"
        info = vocabulary[token_id]
        self[token_id] = _token(ShownToken(info.bytes, info.special, 0, False, "", 0))
        return self[token_id]


_inactive: WeakKeyDictionary[Vocabulary, _Inactive] = WeakKeyDictionary()


def _inactive_tokens(vocabulary: Vocabulary) -> _Inactive:
    """Return the one cache of a vocabulary, which lives as long as it."""
    known = _inactive.get(vocabulary)
    if known is None:
        known = _inactive[vocabulary] = _Inactive(vocabulary)
    return known


def _active(example: ExampleView, place: int, maximum: float) -> _Token:
    return _token(token_text.token_of_line(example, place, maximum))


def _token(shown: ShownToken) -> _Token:
    """Return a token with what it takes to place it on a line."""
    pieces = shown.pieces
    width = sum(len(piece.text) for piece in pieces)
    return _Token(token_html.light(shown), width, token_text.right_to_left(pieces))


def _filling(example: ExampleView, maximum: float, places: range, characters: int) -> list[_Token]:
    """Return as many of the tokens at these places, in this order, as it takes to fill so many characters."""
    tokens = example.tokens
    inactive, ids = _inactive_tokens(tokens.vocabulary), tokens.ids
    active = [place for place in tokens.active_places() if place in places]
    found: list[_Token] = []
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        found += [inactive[ids[place]] for place in some]
        for place in active:
            if place in some:
                found[places.index(place)] = _active(example, place, maximum)
        ends = list(accumulate(map(itemgetter(1), found)))
        if ends[-1] >= characters:
            return found[: bisect_left(ends, characters) + 1]
    return found


def _joined(tokens: Sequence[_Token]) -> str:
    """Return tokens in a row; those from right to left keep together."""
    directions = [token.right_to_left for token in tokens]
    if True not in directions:
        return "".join(map(itemgetter(0), tokens))
    runs = groupby(zip(token_text.resolved(directions), tokens, strict=True), key=itemgetter(0))
    texts = ((right_to_left, "".join(token.html for _, token in run)) for right_to_left, run in runs)
    return "".join(f'<bdi dir="rtl">{text}</bdi>' if right_to_left else text for right_to_left, text in texts)
