"""Language models and their tokens."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from weakref import WeakKeyDictionary

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import Pool

from app.errors import Conflict
from app.queries.sql.copy import copy_rows
from app.queries.sql.expressions import in_array
from app.queries.sql.locks import lock_until_commit
from app.tables import LanguageModel, Token

UNKNOWN = "\ufffd".encode()
"""Bytes of a token id that the vocabulary lacks; a model's embedding may be larger than its vocabulary."""
_TOKEN = ("model_id", "id", "bytes", "special")

NO_WEIGHTS = "none"
"""Replaces the hash of the weights of a model or SAE that was imported as statistics only."""


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

    @property
    def has_weights(self) -> bool:
        """False if only a name and some tokens of the model are known."""
        return self.weights_sha256 != NO_WEIGHTS


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One vocabulary entry; its bytes may be part of a character (`app.services.tokens` makes text of them)."""

    id: int
    bytes: bytes
    special: bool


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One language model to register."""

    name: str
    source: str
    n_layers: int
    d_model: int
    vocab_size: int
    weights_sha256: str
    tokenizer_sha256: str
    bos_token_id: int | None


class Vocabulary(dict[int, TokenInfo]):
    """Entries of one model's vocabulary by id, maybe not all; two are equal only if they are the same object.

    Entries are made of `raw`, the bytes by id, when they are needed: most never are.
    """

    def __init__(
        self,
        entries: Mapping[int, TokenInfo] | None = None,
        raw: Sequence[bytes | None] = (),
        special: Iterable[int] = (),
    ) -> None:
        super().__init__(entries or {})
        self._raw, self._special = raw, frozenset(special)

    @property
    def size(self) -> int:
        """Tokens that it keeps in memory."""
        return max(len(self), len(self._raw))

    def make(self, number: int) -> bool:
        """Make an entry; return False if its bytes are not known."""
        raw = self._raw[number] if 0 <= number < len(self._raw) else None
        if raw is not None:
            self[number] = TokenInfo(number, raw, number in self._special)
        return raw is not None

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


async def register_model(
    session: AsyncSession,
    row: ModelRow,
    *,
    token_bytes: Sequence[bytes],
    special_token_ids: Collection[int],
    keep_name: bool = False,
) -> ModelInfo:
    """Register a model with its vocabulary, or return the one with these hashes.

    A name that another model has gets a short hash added, as in `checkpoint-500-1f3a9c`. With `keep_name` the model is
    registered by exactly this name, or renamed to it.

    Raises:
        Conflict: another model has the name, which was to be kept.
    """
    await lock_until_commit(session, "models")  # so that no two writers take the same name
    known = (
        await session.scalars(
            select(LanguageModel).where(
                LanguageModel.weights_sha256 == row.weights_sha256,
                LanguageModel.tokenizer_sha256 == row.tokenizer_sha256,
            )
        )
    ).one_or_none()
    if known is not None:
        if keep_name and known.name != row.name:
            known.name = await _free_name(session, row, keep_name=True)
            await session.flush()
        return model_info(known)
    model = LanguageModel(**{**asdict(row), "name": await _free_name(session, row, keep_name=keep_name)})
    session.add(model)
    await session.flush()
    await session.refresh(model)
    special = frozenset(special_token_ids)
    await copy_rows(
        session,
        Token,
        _TOKEN,
        ((model.id, number, token, number in special) for number, token in enumerate(token_bytes)),
    )
    return model_info(model)


async def _free_name(session: AsyncSession, row: ModelRow, *, keep_name: bool) -> str:
    """Return the name of a model, with as much of a hash as tells it from the others of this name."""
    taken = set(await session.scalars(select(LanguageModel.name).where(LanguageModel.name.startswith(row.name))))
    if row.name not in taken:
        return row.name
    if keep_name:
        raise Conflict(f"Another model is named {row.name}. Choose another `model_name`.")
    digest = hashlib.sha256(f"{row.weights_sha256} {row.tokenizer_sha256}".encode()).hexdigest()
    return next(name for length in range(6, 65) if (name := f"{row.name}-{digest[:length]}") not in taken)


async def find_model(session: AsyncSession, name: str) -> ModelInfo | None:
    """Return the newest model with this name or source."""
    query = select(LanguageModel).where(or_(LanguageModel.name == name, LanguageModel.source == name))
    found = await session.scalar(query.order_by(LanguageModel.id.desc()).limit(1))
    return None if found is None else model_info(found)


async def get_model(session: AsyncSession, model_id: int) -> ModelInfo | None:
    """Return a model by its id."""
    row = await session.get(LanguageModel, model_id)
    return None if row is None else model_info(row)


async def set_source(session: AsyncSession, model_id: int, source: str) -> ModelInfo:
    """Note that a model is loaded from another place from now on."""
    model = await session.get_one(LanguageModel, model_id)
    model.source = source
    await session.flush()
    return model_info(model)


async def register_without_weights(
    session: AsyncSession, *, name: str, source: str, n_layers: int, d_model: int, tokens: Iterable[bytes]
) -> tuple[ModelInfo, list[int]]:
    """Register a model of which only a name and some tokens are known; return it with the ids of `tokens`, in order.

    Ids are assigned in the order of first occurrence: each distinct token is one entry, and tokens that are new to the
    model are added to it.

    Args:
        n_layers, d_model: 0 if unknown.

    Raises:
        Conflict: the name belongs to a model with weights.
    """
    await session.execute(
        insert(LanguageModel)
        .values(
            name=name,
            source=source,
            n_layers=n_layers,
            d_model=d_model,
            vocab_size=0,
            weights_sha256=NO_WEIGHTS,
            tokenizer_sha256=NO_WEIGHTS,
        )
        .on_conflict_do_nothing(index_elements=["name"])
    )
    named = select(LanguageModel).where(LanguageModel.name == name)
    model = (await session.scalars(named.with_for_update())).one()  # the lock lets one import at a time add tokens
    if model.weights_sha256 != NO_WEIGHTS:
        raise Conflict(f"A model named {name} with weights is registered already: give this one another name.")
    known = await session.execute(select(Token.bytes, Token.id).where(Token.model_id == model.id))
    ids: dict[bytes, int] = {row.bytes: row.id for row in known}
    first = len(ids)
    numbers = [ids.setdefault(token, len(ids)) for token in tokens]
    added = islice(ids.items(), first, None)
    await copy_rows(session, Token, _TOKEN, ((model.id, number, token, False) for token, number in added))
    model.vocab_size = len(ids)
    await session.flush()
    return model_info(model), numbers


def model_info(model: LanguageModel) -> ModelInfo:
    """Convert a table row."""
    return ModelInfo(
        id=model.id,
        name=model.name,
        source=model.source,
        n_layers=model.n_layers,
        d_model=model.d_model,
        vocab_size=model.vocab_size,
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        bos_token_id=model.bos_token_id,
        created_at=model.created_at,
    )


async def get_tokens(session: AsyncSession, model_id: int, ids: Iterable[int]) -> Vocabulary:
    """Return these vocabulary entries by id, maybe among others; ids that the vocabulary lacks are `UNKNOWN`."""
    known = await _vocabulary(session, model_id)
    wanted = set(ids)
    if wanted <= known.keys():
        return known
    # Not a set difference, which would visit all known ids.
    missing = [number for number in wanted if number not in known and not known.make(number)]
    if missing:  # a model that was imported without weights gets more tokens with its next import
        rows = await session.execute(
            select(Token.id, Token.bytes, Token.special).where(Token.model_id == model_id, in_array(Token.id, missing))
        )
        known.update((number, TokenInfo(number, token, special)) for number, token, special in rows)
        if not wanted <= known.keys():
            return Vocabulary({number: known.get(number, TokenInfo(number, UNKNOWN, False)) for number in wanted})
    return known


async def vocabulary(session: AsyncSession, model: ModelInfo) -> list[bytes]:
    """Return the bytes of every token of a model, by id; empty where the vocabulary lacks one."""
    found = [b""] * model.vocab_size
    for number, raw in await session.execute(select(Token.id, Token.bytes).where(Token.model_id == model.id)):
        if number < len(found):
            found[number] = raw
    return found


async def tokens_spelled(session: AsyncSession, model_id: int, text: str) -> list[int]:
    """Return the ids of the tokens that are this text, or this text after a space."""
    spellings = [text.encode(), b" " + text.encode()]
    found = await session.scalars(
        select(Token.id).where(Token.model_id == model_id, or_(*(Token.bytes == spelling for spelling in spellings)))
    )
    return sorted(found)


_READ_WHOLE = 65_536
"""Tokens of a vocabulary that is read at once: it takes some 40 ms, in which nobody else is answered, and 4 MB. Of a
larger one, what pages ask for is read when they do."""
_MOST_TOKENS = 200_000
"""Tokens kept in memory, of all models: some 30 MB if pages show them all."""

_vocabularies: WeakKeyDictionary[Pool, dict[int, Vocabulary]] = WeakKeyDictionary()
"""Of each database by the model's id, that which was used least recently first."""

_RAW = select(
    func.array_agg(aggregate_order_by(Token.id, Token.id)),
    func.array_agg(aggregate_order_by(Token.bytes, Token.id)),
    func.array_agg(Token.id).filter(Token.special),
).where(
    Token.model_id == bindparam("model"),
    select(LanguageModel.vocab_size).where(LanguageModel.id == bindparam("model")).scalar_subquery() <= _READ_WHOLE,
)


async def _vocabulary(session: AsyncSession, model_id: int) -> Vocabulary:
    """Return what is known of a model's vocabulary, whose entries never change: each page shows hundreds of them."""
    models = _vocabularies.setdefault(session.get_bind().engine.pool, {})
    found = models.pop(model_id, None)
    if found is None:
        read = await _read_vocabulary(session, model_id)
        found = models.pop(model_id, read)  # another request may have read it meanwhile
    models[model_id] = found
    while len(models) > 1 and sum(known.size for known in models.values()) > _MOST_TOKENS:
        del models[next(iter(models))]
    return found


async def _read_vocabulary(session: AsyncSession, model_id: int) -> Vocabulary:
    ids, tokens, special = (await session.execute(_RAW, {"model": model_id})).one()
    raw: list[bytes | None] = [None] * (ids[-1] + 1 if ids else 0)
    for number, token in zip(ids or (), tokens or (), strict=True):
        raw[number] = token
    return Vocabulary(raw=raw, special=special or ())
