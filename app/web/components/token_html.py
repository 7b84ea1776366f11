"""Tokens as markup. A page has thousands, and this takes a tenth of the time of template macros.

All text of tokens is escaped here.
"""

from functools import lru_cache

from markupsafe import Markup, escape

from app.services.tokens import Piece, display
from app.web.components.token_text import ShownToken


@lru_cache(maxsize=65_536)
def token(raw: bytes) -> str:
    """Return one token: text unchanged, a stand-in for a character without a glyph, a byte in hex."""
    return "".join(map(_piece, display(raw)))


@lru_cache(maxsize=32_768)
def lone(raw: bytes, special: bool) -> Markup:
    """Return one token of a list, with visible spaces if it has nothing else."""
    if special:
        return Markup(f'<bdi class="token"><span class="chip">{token(raw)}</span></bdi>')  # noqa: S704 - escaped
    pieces = (
        f'<span class="mark">{"␣" * len(piece.text)}</span>'
        if piece.kind == "text" and not piece.text.strip()
        else _piece(piece)
        for piece in display(raw)
    )
    return Markup(f'<bdi class="token">{"".join(pieces)}</bdi>')  # noqa: S704 - escaped


def multiline_token(shown: ShownToken) -> str:
    """Return a token of a whole text, with a line break after a newline's mark."""
    return light(shown).replace(_NEWLINE, f"{_NEWLINE}\n")


_NEWLINE = '<span class="mark">↵</span>'


def classes(shown: ShownToken) -> str:
    """Return the CSS classes of a token."""
    shade = f" a{shown.step}" if shown.step else ""
    return f"t{shade}{' top' if shown.strongest else ''}{' chip' if shown.special else ''}"


def _piece(piece: Piece) -> str:
    if piece.kind == "text":
        return str(escape(piece.text))
    return f'<span class="{"chip" if piece.kind == "hex" else "mark"}">{escape(piece.text)}</span>'


def light(shown: ShownToken) -> str:
    """Return a token, in an element only if it is shaded or special."""
    if not shown.step and not shown.special:
        return token(shown.raw)
    title = f' title="{escape(shown.note)}"' if shown.step else ""
    return f'<span class="{classes(shown)}"{title}>{token(shown.raw)}</span>'
