"""Text of tokens, whose bytes may be parts of a character.

`display` shows a single token to a person; `api_texts` splits the text of consecutive tokens exactly.
"""

import codecs
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

Kind = Literal["text", "newline", "tab", "hex"]

_STAND_INS: dict[str, tuple[Kind, str]] = {"\n": ("newline", "↵"), "\t": ("tab", "⇥")}
_INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Zl", "Zp"}
"""Unicode categories of characters that are invisible, or that change the display of their neighbours."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a token's display: plain text, a symbol (↵ ⇥), a byte in hex ("E2") or a code point ("U+200B")."""

    kind: Kind
    text: str


def display(token: bytes) -> tuple[Piece, ...]:
    """Return a token's pieces: leading space kept, ↵ for newline, ⇥ for tab, hex for controls and partial UTF-8."""
    text = token.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable():  # most tokens
        return (Piece("text", text),) if text else ()
    pieces: list[Piece] = []
    for kind, group in groupby(_shown(text), key=lambda shown: shown[0]):
        texts = [text for _, text in group]
        if kind == "text":
            pieces.append(Piece(kind, "".join(texts)))
        else:
            pieces += [Piece(kind, text) for text in texts]
    return tuple(pieces)


def _shown(text: str) -> Iterator[tuple[Kind, str]]:
    """Yield kind and displayed form of each character, and of each byte that is not part of one."""
    for character in text:
        if character in _STAND_INS:
            yield _STAND_INS[character]
        elif "\udc80" <= character <= "\udcff":  # surrogateescape's form of a byte
            yield "hex", f"{ord(character) - 0xDC00:02X}"
        elif unicodedata.category(character) in _INVISIBLE:
            yield "hex", f"U+{ord(character):04X}"
        else:
            yield "text", character


def spelled(token: bytes) -> str | None:
    """Return the text by which a filter finds this token; None for a part of a character."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def plain(token: bytes) -> str:
    """Return one token as plain text, for a `title` or a figure: as `display`, with hex as ⟨E2⟩."""
    return "".join(f"⟨{piece.text}⟩" if piece.kind == "hex" else piece.text for piece in display(token))


def parts(text: str, ends: Sequence[int]) -> list[str]:
    """Cut a text where its tokens end."""
    return [text[start:end] for start, end in pairwise((0, *ends))]


def without_added_space(token: bytes, part: str) -> bytes:
    """Return a token's bytes without a space in front that only the tokenizer put there: `part` of the text has none.

    Sentencepiece begins a text with a space. A token that is nothing else stays, so that there is something to show.
    """
    return token[1:] if part and token == b" " + part.encode() else token


def api_texts(tokens: Sequence[bytes]) -> list[str]:
    """Return the text of each of these consecutive tokens; joined, they are the decoded bytes of all.

    A character that is split over tokens belongs to the token that completes it; the others have "". Bytes that are
    not UTF-8 become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    last = len(tokens) - 1
    return [decoder.decode(token, final=place == last) for place, token in enumerate(tokens)]
