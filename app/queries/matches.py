"""Why a search found a feature: the top tokens and the label that match."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, union_all
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.features import TopToken
from app.queries.saes import SaeDetail
from app.queries.search import matching_labels, terms, token_matches, words, words_with_stem
from app.queries.sql.expressions import in_array


@dataclass(frozen=True, slots=True)
class FeatureMatch:
    """The top tokens that match a search, and the label that matches best, if there is one."""

    tokens: tuple[TopToken, ...]
    label: str | None = None
    """Its explanation."""
    words: frozenset[str] = frozenset()
    """The words of the explanation that match, in lower case."""
    category: str = ""
    """The search, if a category of the label is that, and the explanation does not match."""

    @property
    def share(self) -> float:
        """Return the share of the feature's activation that falls on these tokens."""
        return sum(token.share for token in self.tokens)


async def feature_matches(
    session: AsyncSession, sae: SaeDetail, query: str, top: Mapping[int, Sequence[TopToken]]
) -> dict[int, FeatureMatch]:
    """Return the matches of `query` among features with these top tokens, by number."""
    wanted = terms(query)
    labels = await _best_labels(session, sae.id, query, top.keys())
    matching = await _matching_words(session, [label.explanation for label in labels.values()], wanted)
    found = {}
    for number, tokens in top.items():
        label = labels.get(number)
        found[number] = FeatureMatch(
            tuple(token for token in tokens if token_matches(token.bytes, wanted)),
            label.explanation if label else None,
            matching.intersection(_words(label.explanation)) if label else frozenset(),
            query if label and label.rank == 0 else "",
        )
    return found


async def _best_labels(
    session: AsyncSession, sae_id: int, query: str, features: Collection[int]
) -> dict[int, Row[Any]]:
    """Return explanation and rank of the label that matches best, by feature."""
    found = union_all(*matching_labels(sae_id, query)).subquery()
    first = found.c.feature, found.c.rank.desc(), found.c.explanation
    best = select(found).where(in_array(found.c.feature, features)).ext(distinct_on(found.c.feature)).order_by(*first)
    return {row.feature: row for row in await session.execute(best)}


async def _matching_words(session: AsyncSession, labels: Collection[str], wanted: Sequence[str]) -> frozenset[str]:
    """Return the words of these labels that begin with one of the `wanted` ones, or have its stem."""
    known = sorted({word for label in labels for word in _words(label)})
    if not known:
        return frozenset()
    stems = await session.scalars(words_with_stem(known, wanted))
    return frozenset(stems) | {word for word in known if word.startswith(tuple(wanted))}


def _words(text: str) -> list[str]:
    return [word.lower() for word in words(text)]
