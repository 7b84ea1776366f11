"""Examples: sequences of the corpus in which a feature is active."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.saes import SaeDetail

BANDS = 5
"""Quantile bands of the non-zero activations, 1 the weakest; band 0 holds the top examples."""


@dataclass(frozen=True, slots=True)
class ExampleToken:
    """One token of an example with the feature's activation on it; `counted` tokens only can have one above 0."""

    id: int
    bytes: bytes
    special: bool
    activation: float


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """The document that an example's token is from."""

    number: int
    title: str
    topic: str | None


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One example: token `position` of corpus sequence `sequence`, among `tokens`.

    `tokens` is the whole sequence without padding, or in a list of features a window of it; its first token stands at
    `start` in the sequence, so the example's own token is `tokens[position - start]`.
    """

    band: int
    rank: int
    sequence: int
    position: int
    activation: float
    document: DocumentInfo | None
    start: int
    tokens: tuple[ExampleToken, ...]


async def get_examples(
    session: AsyncSession, sae: SaeDetail, feature: int, *, band: int | None = None, limit: int = 100
) -> list[ExampleView]:
    """Examples of a feature by band and rank, top examples first; `limit` is for each band.

    Raises:
        Unprocessable: no such band, or a limit outside 1..100.
    """
    raise NotImplementedError


async def best_examples(
    session: AsyncSession, sae: SaeDetail, features: list[int], *, before: int = 12, after: int = 12
) -> dict[int, ExampleView]:
    """The strongest example of each of these features, cut to a window of tokens around its position."""
    raise NotImplementedError
