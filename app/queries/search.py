"""Full-text search over the labels and top tokens of features, and how well each matches."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    ColumnElement,
    Double,
    Integer,
    Select,
    Subquery,
    Text,
    any_,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    union,
    union_all,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.queries.sql.expressions import submitted
from app.tables import Feature, Label
from app.tables.features import TOP_TOKENS

_INTEGERS: Any = ARRAY(Integer)
_SIMPLE: ColumnElement[str] = literal_column("'simple'")
_ENGLISH: ColumnElement[str] = literal_column("'english'")
_ZERO: ColumnElement[int] = literal_column("0")
_TOP_TOKENS: ColumnElement[str] = literal_column(TOP_TOKENS)
"""Literal, so that the planner recognises the expressions of the indexes."""
_WORDS_OF_LABEL: ColumnElement[int] = func.cardinality(
    func.regexp_split_to_array(Label.explanation, literal_column(r"'\s+'"))
)


WORD = re.compile(r"[^\W_]+")
"""A word of a query. Postgres' own parser would skip <script> as markup, and read a/b and foo.com as one word."""


def words(text: str) -> list[str]:
    """Return the words of `text` that full text indexes; none if it is all punctuation."""
    return WORD.findall(text)


def searched_text(token: bytes) -> str:
    """Return the text by which a token is found: its words, or the token itself if it has none."""
    text = token.decode(errors="ignore").replace("\0", "")
    return " ".join(words(text)) or text.strip()


def terms(query: str) -> list[str]:
    """Return the words of `query` in lower case; of a query without words, what stands between its blanks."""
    return [term.lower() for term in words(query) or query.split()]


@lru_cache(maxsize=65_536)
def _searched_words(token: bytes) -> tuple[str, ...]:
    return tuple(searched_text(token).lower().split(" "))


def token_matches(token: bytes, query_terms: Sequence[str]) -> bool:
    """True if a word of the token begins with one of these `terms`."""
    return any(word.startswith(tuple(query_terms)) for word in _searched_words(token))


def matches(sae_id: int, query: str) -> ColumnElement[bool]:
    """Return the condition that top tokens or submitted labels match all words of `query`, each as a prefix.

    One condition on `feature`, of two that each have an index: Postgres then visits a feature that matches once.
    """
    prefixes = " & ".join(f"{_quoted(term)}:*" for term in words(query) or query.split())
    of_tokens = _TOP_TOKENS.op("@@")(cast(func.lower(prefixes), TSQUERY))
    labelled = union(*(part.with_only_columns(Label.feature) for part in matching_labels(sae_id, query)))
    return or_(of_tokens, Feature.number == any_(func.array(labelled.scalar_subquery(), type_=ARRAY(Integer))))


def matching_labels(sae_id: int, query: str) -> tuple[Select[int, str, float], Select[int, str, float]]:
    """Select feature, explanation and rank of submitted labels: those whose words match, those with such a category.

    The rank is the share of a label's words that the search names, at most 1, and 0 for a category. Each of the two
    has an index, but for a query without words: full text indexes words only.
    """
    rank = func.least(1.0, cast(float(len(terms(query))), Double) / cast(_WORDS_OF_LABEL, Double))
    explained = _of_sae(sae_id, rank).where(_explained(query))
    category = func.unnest(Label.categories).column_valued("category")
    categorised = _of_sae(sae_id, cast(0.0, Double)).where(
        func.cardinality(Label.categories) > _ZERO, exists().where(func.lower(category) == query.lower())
    )
    return explained, categorised


def match_score(sae_id: int, query: str, tokens: Sequence[int]) -> tuple[ColumnElement[float], Subquery]:
    """Return how well a feature matches `query`, and the table that must be outer joined on `feature` for it.

    Labels come first: 2 and the rank of the best one. Without one it is the share of the feature's activation that
    falls on `tokens`, the ids of the tokens that match.
    """
    labels = union_all(*matching_labels(sae_id, query)).subquery()
    ranks = select(labels.c.feature, func.max(labels.c.rank).label("rank")).group_by(labels.c.feature).subquery()
    top = (
        func.unnest(Feature.top_token_ids, Feature.top_token_shares)
        .table_valued(column("id", Integer), column("share", REAL), name="top")
        .render_derived()
    )
    on_tokens = select(func.sum(cast(top.c.share, Double))).where(top.c.id == any_(_constant(tokens)))
    share = func.coalesce(on_tokens.scalar_subquery(), 0.0)
    return cast(case((ranks.c.rank.is_not(None), 2.0 + ranks.c.rank), else_=share), Double), ranks


def _constant(numbers: Sequence[int]) -> ColumnElement[list[int]]:
    """Return an array written into the statement: Postgres hashes a constant, and would walk through a parameter."""
    array: ColumnElement[list[int]] = bindparam(None, list(numbers), _INTEGERS, unique=True, literal_execute=True)
    return cast(array, _INTEGERS)


def _of_sae(sae_id: int, rank: ColumnElement[float]) -> Select[int, str, float]:
    return select(Label.feature, Label.explanation, rank.label("rank")).where(Label.sae_id == sae_id, submitted)


def _explained(query: str) -> ColumnElement[bool]:
    """True for labels whose explanation has all words of the query, as a prefix or by their stem."""
    if not words(query):
        return Label.explanation.contains(query, autoescape=True)
    simple = func.to_tsquery(_SIMPLE, " & ".join(f"{word}:*" for word in words(query)))
    english = func.plainto_tsquery(_ENGLISH, query)
    return or_(Label.search.op("@@")(simple), Label.search.op("@@")(english))


def words_with_stem(candidates: Sequence[str], query_terms: Sequence[str]) -> Select[str]:
    """Select those of the words that have the stem of one of the `terms`."""
    word = func.unnest(literal(list(candidates), ARRAY(Text))).column_valued("word")
    term = func.unnest(literal(list(query_terms), ARRAY(Text))).column_valued("term")
    stems = func.to_tsvector(_ENGLISH, word).op("@@")(func.plainto_tsquery(_ENGLISH, term))
    return select(word).where(exists().where(stems))


def _quoted(term: str) -> str:
    """Quote a term of a tsquery."""
    doubled = term.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
