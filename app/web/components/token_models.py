"""Tokens as the API writes them."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import BaseModel, Field

from app.queries.features import TopToken
from app.services.tokens import api_texts

TokenText = Annotated[
    str,
    Field(
        description="The token's text. A character that several tokens share stands with the last of them, so that "
        "the texts of consecutive tokens, joined, are the text."
    ),
]


class HasBytes(Protocol):
    """Any of the queries' token classes."""

    @property
    def bytes(self) -> bytes:
        """The token's raw bytes."""


class TopTokenOut(BaseModel):
    """A token the feature is active on."""

    id: int
    text: str
    count: Annotated[int, Field(description="Counted tokens of this id on which the feature is active.")]
    share: Annotated[float, Field(description="Share of the feature's activation mass.")]
    mean: Annotated[float, Field(description="Mean activation on those tokens.")]

    @classmethod
    def of(cls, token: TopToken) -> "TopTokenOut":
        """Return the query's token with its text."""
        return cls(id=token.id, text=lone_text(token), count=token.count, share=token.share, mean=token.mean)


class OutputTokenOut(BaseModel):
    """A token whose logit the decoder direction changes directly."""

    id: int
    text: str
    logit: float


def lone_text(token: HasBytes) -> str:
    """The text of a token that stands by itself; bytes that are no whole character become U+FFFD."""
    return api_texts([token.bytes])[0]


def texts(tokens: Sequence[HasBytes]) -> list[str]:
    """The texts of consecutive tokens."""
    return api_texts([token.bytes for token in tokens])
