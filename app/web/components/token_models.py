"""Tokens as the API writes them."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import BaseModel, Field

from app.queries.features import TopToken
from app.services.tokens import api_texts

TokenText = Annotated[
    str,
    Field(
        description="The token's text. A character that several tokens share belongs to the last of them, so that "
        "the joined texts of consecutive tokens are the text."
    ),
]


class HasBytes(Protocol):
    """Any of the queries' token classes."""

    @property
    def bytes(self) -> bytes:
        """The token's raw bytes."""


class TopTokenOut(BaseModel):
    """A token on which the feature is active."""

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
    """A token whose logit the decoder direction changes directly, without later layers."""

    id: int
    text: str
    logit: Annotated[
        float,
        Field(
            description="Change of the logit per unit of activation, before the final norm's division, less its mean "
            "over the SAE's features. The list is in order of this difference in standard deviations over the "
            "features. Of an imported index, or one whose provenance has no `output_tokens.score`: the change itself."
        ),
    ]


def lone_text(token: HasBytes) -> str:
    """Return the text of a single token; bytes that are not a whole character become U+FFFD."""
    return api_texts([token.bytes])[0]


def texts(tokens: Sequence[HasBytes]) -> list[str]:
    """Return the texts of consecutive tokens."""
    return api_texts([token.bytes for token in tokens])
