"""Text of tokens, whose bytes may be parts of a character.

`display` shows one token by itself to a person; `api_texts` splits the text of consecutive tokens exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a token's display: text as it is, a visible stand-in (↵ ⇥), or a byte in hex ("E2")."""

    kind: Literal["text", "newline", "tab", "hex"]
    text: str


def display(token: bytes) -> tuple[Piece, ...]:
    """How to show one token: leading space kept, ↵ for newline, ⇥ for tab, hex for controls and partial UTF-8."""
    raise NotImplementedError


def plain(token: bytes) -> str:
    """One token as a line of plain text, as in a `title` or a figure: as `display`, with hex as ⟨E2⟩."""
    raise NotImplementedError


def api_texts(tokens: Sequence[bytes]) -> list[str]:
    """Text of each of these consecutive tokens; joined, they are the decoded bytes of all.

    A character split over tokens belongs to the token that completes it, and the ones before have "". Bytes that are
    not UTF-8 become U+FFFD.
    """
    raise NotImplementedError
