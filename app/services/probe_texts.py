"""Many texts, each probed alone, as a table of features by prompt."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, dataclass

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import ClientGone, TooLarge, Unprocessable, UserError
from app.queries.saes import SaeDetail
from app.services.csv_text import csv_text
from app.services.inference import InferenceClient
from app.services.inference_messages import RankBy
from app.services.probe import check_text, probe

MAX_TEXTS = 1_000
"""Texts in one request."""

NDJSON = "application/x-ndjson"
CSV = "text/csv"
_COLUMNS = ("prompt", "feature", "label", "max", "max_position", "percentile", "error")


@dataclass(frozen=True, slots=True)
class TextFeature:
    """A feature that is active on one of the texts."""

    index: int
    label: str | None
    max: float
    max_position: int
    percentile: float | None


@dataclass(frozen=True, slots=True)
class TextFindings:
    """One of the texts, `prompt` by number: its tokens, and its first features; or why it could not be probed."""

    prompt: int
    tokens: int
    firing: int
    features: tuple[TextFeature, ...]
    error: str | None


def check_texts(texts: Sequence[str]) -> None:
    """Refuse texts that one request cannot probe.

    Raises:
        Unprocessable: there is none, or one is empty or not valid Unicode.
        TooLarge: there are too many.
    """
    if not texts:
        raise Unprocessable("There are no texts: give at least one.")
    if len(texts) > MAX_TEXTS:
        raise TooLarge(f"{len(texts):,} texts; at most {MAX_TEXTS:,} can be probed in one request.")
    for place, text in enumerate(texts):
        try:
            check_text(text)
        except Unprocessable as error:
            raise Unprocessable(f"Text {place} of “texts”: {error}") from None


async def probe_texts(
    sessions: async_sessionmaker[AsyncSession],
    inference: InferenceClient,
    sae: SaeDetail,
    texts: Sequence[str],
    *,
    top_k: int,
    rank_by: RankBy = "percentile",
) -> AsyncGenerator[TextFindings]:
    """Yield each text's findings, one request after the other, so that other people's probes get their turns.

    A text that cannot be probed gets a row that says why, so that no other is lost.

    Raises:
        NoWeights, Unavailable: as `probe`, of the first text.
    """
    for place, text in enumerate(texts):
        try:
            async with transaction(sessions) as session:
                found = await probe(session, inference, sae, text, top_k=top_k, rank_by=rank_by)
        except ClientGone:
            raise
        except UserError as error:
            if place == 0 and not isinstance(error, TooLarge | Unprocessable):
                raise
            yield TextFindings(place, 0, 0, (), str(error))
            continue
        features = tuple(
            TextFeature(one.index, one.label, one.max, one.max_position, one.percentile) for one in found.features
        )
        yield TextFindings(place, len(found.tokens), found.firing, features, None)


async def ndjson_rows(first: TextFindings, rest: AsyncIterator[TextFindings]) -> AsyncIterator[bytes]:
    """Yield each text as one line of JSON."""
    yield to_json(first) + b"\n"
    async for row in rest:
        yield to_json(row) + b"\n"


async def csv_rows(first: TextFindings, rest: AsyncIterator[TextFindings]) -> AsyncIterator[bytes]:
    """Yield a header, and one line per text and feature."""
    yield csv_text([_COLUMNS]).encode()
    yield csv_text(_table(first)).encode()
    async for row in rest:
        yield csv_text(_table(row)).encode()


def _table(found: TextFindings) -> list[tuple[object, ...]]:
    if found.error is not None:
        return [(found.prompt, None, None, None, None, None, found.error)]
    return [(found.prompt, *asdict(feature).values(), None) for feature in found.features]
