"""Spelling correction of searches: words that match nothing, and the most similar words that do.

The words that can be found are those of the top tokens of an SAE's index and those of its submitted labels. They are
read only once a search finds nothing, and kept: the tokens' until another index is published, the labels' until one is
written. Reading those of 65,536 features takes half a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from rapidfuzz import process
from rapidfuzz.distance import OSA
from sqlalchemy import Select, Text, bindparam, column, exists, func, literal_column, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import Pool

from app.queries.saes import SaeDetail
from app.queries.search import WORD, matches, words
from app.queries.sql.expressions import submitted
from app.tables import Base, Feature, Label

MOST_CORRECTED = 8
"""A longer query is not corrected."""

_SHORTEST = 3
"""Letters of the shortest word that is corrected: any two letters are similar to any others."""
_MOST_OF_INDEX = 100_000
"""Cached words per index, those of most features; some 6 MB."""
_MOST_WORDS = 200_000
"""Cached words of all indexes."""


async def corrected(session: AsyncSession, sae: SaeDetail, query: str) -> str | None:
    """Return `query` with each word that matches no feature replaced by the most similar word that does.

    Near is a distance of at most `most_edits`, counted in letters put in, left out, changed or swapped with the next
    (optimal string alignment). Of words equally near, those of labels come first, then the one of most features, then
    the alphabet. So the same index and labels give the same answer.

    Returns:
        None where every word matches some feature, or none of the others has a word near to it.
    """
    if sae.index is None:
        return None
    terms = list(dict.fromkeys(word.lower() for word in words(query)))
    if not 0 < len(terms) <= MOST_CORRECTED:
        return None
    known: Sequence[str] | None = None
    nearest = {}
    for term in await _unmatched(session, sae.index.id, sae.id, terms):
        if len(term) < _SHORTEST or not term.isalpha():
            continue
        if known is None:
            known = await _vocabulary(session, sae)
        found = process.extractOne(term, known, scorer=OSA.distance, score_cutoff=most_edits(term))
        if found is not None:
            nearest[term] = found[0]
    return WORD.sub(lambda word: nearest.get(word[0].lower(), word[0]), query) if nearest else None


def most_edits(word: str) -> int:
    """Return the allowed edit distance: 1 up to five letters, else 2."""
    return 1 if len(word) <= 5 else 2


async def _unmatched(session: AsyncSession, index_id: int, sae_id: int, terms: Sequence[str]) -> list[str]:
    """Return the `terms` that match no feature of the index."""
    found = select(*(exists().where(Feature.index_id == index_id, matches(sae_id, term)) for term in terms))
    matched = (await session.execute(found)).one()
    return [term for term, is_matched in zip(terms, matched, strict=True) if not is_matched]


@dataclass(frozen=True, slots=True)
class _Words:
    """Cached words of one SAE, with the index and the number of label changes that they were read at."""

    index_id: int
    of_tokens: tuple[str, ...]
    label_changes: int
    of_labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.of_tokens) + len(self.of_labels)


_read: WeakKeyDictionary[Pool, dict[int, _Words]] = WeakKeyDictionary()


async def _vocabulary(session: AsyncSession, sae: SaeDetail) -> Sequence[str]:
    """Return the words that can be found, preferred ones first."""
    assert sae.index is not None
    of_saes = _read.setdefault(session.get_bind().engine.pool, {})
    known = of_saes.get(sae.id)
    if known is None or (known.index_id, known.label_changes) != (sae.index.id, sae.label_changes):
        if known is not None and known.index_id == sae.index.id:
            of_tokens = known.of_tokens
        else:
            of_tokens = await _column(session, _OF_TOKENS, {"index": sae.index.id})
        of_labels = await _column(session, _OF_LABELS, {"sae": sae.id})
        known = of_saes[sae.id] = _Words(sae.index.id, of_tokens, sae.label_changes, of_labels)
        if sum(map(len, of_saes.values())) > _MOST_WORDS:
            of_saes.clear()
    return (*known.of_labels, *known.of_tokens)


async def _column(session: AsyncSession, query: Select[Any], parameters: dict[str, int]) -> tuple[str, ...]:
    return tuple(await session.scalars(query, parameters))


def _most_frequent(table: type[Base], words_of: Any, *conditions: Any) -> Select[Any]:
    """Select the distinct words of a table, most frequent first."""
    each = func.unnest(words_of).table_valued(column("word", Text)).render_derived(name="each")
    return (
        select(each.c.word)
        .select_from(table)
        .join(each, true())
        .where(*conditions, func.char_length(each.c.word) >= literal_column(str(_SHORTEST)))
        .group_by(each.c.word)
        .order_by(func.count().desc(), each.c.word)
        .limit(_MOST_OF_INDEX)
    )


_OF_TOKENS = _most_frequent(
    Feature,
    func.string_to_array(func.lower(Feature.top_tokens_text), literal_column("' '")),
    Feature.index_id == bindparam("index"),
)
_OF_LABELS = _most_frequent(
    Label,
    func.tsvector_to_array(func.to_tsvector(literal_column("'simple'"), Label.explanation)),
    Label.sae_id == bindparam("sae"),
    submitted,
)
"""The parser of full text splits explanations, because only its words can be found."""
