"""Language models and their tokens."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A registered language model."""

    id: int
    name: str
    source: str
    n_layers: int
    d_model: int
    vocab_size: int
    weights_sha256: str
    tokenizer_sha256: str
    bos_token_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One vocabulary entry; its bytes may be part of a character (`app.services.tokens` makes text of them)."""

    id: int
    bytes: bytes
    special: bool


async def register_model(
    session: AsyncSession,
    *,
    name: str,
    source: str,
    n_layers: int,
    d_model: int,
    vocab_size: int,
    weights_sha256: str,
    tokenizer_sha256: str,
    bos_token_id: int | None,
    token_bytes: Sequence[bytes],
    special_token_ids: Collection[int],
) -> ModelInfo:
    """The model of these two hashes, registered with its vocabulary if it is new.

    Raises:
        Conflict: the name belongs to a model with other weights or another tokenizer.
    """
    raise NotImplementedError


async def get_model(session: AsyncSession, model_id: int) -> ModelInfo | None:
    """The model with this id."""
    raise NotImplementedError


async def get_tokens(session: AsyncSession, model_id: int, ids: Iterable[int]) -> dict[int, TokenInfo]:
    """Vocabulary entries by id; an id that the vocabulary lacks comes back as U+FFFD's bytes."""
    raise NotImplementedError
