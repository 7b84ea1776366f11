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
from sqlalchemy.orm import InstrumentedAttribute

from app.queries.sql.expressions import submitted
from app.queries.sql.visibility import public_decision
from app.tables import Feature, Label, LabelDecision, LabelSet
from app.tables.features import TOP_TOKENS

_INTEGERS: Any = ARRAY(Integer)
_SIMPLE: ColumnElement[str] = literal_column("'simple'")
_ENGLISH: ColumnElement[str] = literal_column("'english'")
_ZERO: ColumnElement[int] = literal_column("0")
_TOP_TOKENS: ColumnElement[str] = literal_column(TOP_TOKENS)
"""Literal, so that the planner recognises the expressions of the indexes."""


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
    labelled = union(*(select(part.subquery().c.feature) for part in matching_labels(sae_id, query)))
    return or_(of_tokens, Feature.number == any_(func.array(labelled.scalar_subquery(), type_=ARRAY(Integer))))


def matching_labels(sae_id: int, query: str) -> tuple[Select[int, str, float], ...]:
    """Select feature, explanation and rank of submitted labels and of decisions that everybody sees.

    The three are labels whose words match, labels with such a category, and decisions with one or the other. The rank
    is the share of a text's words that the search names, at most 1, and 0 for a category. Words and categories of
    labels have an index each, but for a query without words: full text indexes words only. Decisions are few.
    """
    explained = _of_sae(sae_id, _rank(Label.explanation, query)).where(_explained(Label, query))
    categorised = _of_sae(sae_id, cast(0.0, Double)).where(
        func.cardinality(Label.categories) > _ZERO, _has_category(Label, query)
    )
    says, has = _explained(LabelDecision, query), _has_category(LabelDecision, query)
    rank = case((says, _rank(LabelDecision.explanation, query)), else_=0.0)
    decided = (
        select(LabelDecision.feature, LabelDecision.explanation, cast(rank, Double).label("rank"))
        .join(LabelSet, LabelSet.id == LabelDecision.label_set_id)
        .where(LabelSet.sae_id == sae_id, public_decision, or_(says, has))
    )
    return explained, categorised, decided


def _rank(explanation: InstrumentedAttribute[str], query: str) -> ColumnElement[float]:
    length = func.cardinality(func.regexp_split_to_array(explanation, literal_column(r"'\s+'")))
    rank: ColumnElement[float] = func.least(1.0, cast(float(len(terms(query))), Double) / cast(length, Double))
    return rank


def _has_category(made: type[Label] | type[LabelDecision], query: str) -> ColumnElement[bool]:
    category = func.unnest(made.categories).column_valued("category")
    return exists().where(func.lower(category) == query.lower())


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


def _explained(made: type[Label] | type[LabelDecision], query: str) -> ColumnElement[bool]:
    """True for texts that have all words of the query, as a prefix or by their stem."""
    if not words(query):
        return made.explanation.contains(query, autoescape=True)
    simple = func.to_tsquery(_SIMPLE, " & ".join(f"{word}:*" for word in words(query)))
    english = func.plainto_tsquery(_ENGLISH, query)
    search = Label.search if made is Label else _search_of(LabelDecision.explanation)
    return or_(search.op("@@")(simple), search.op("@@")(english))


def _search_of(text: InstrumentedAttribute[str]) -> ColumnElement[Any]:
    """Return the vector that labels store of their text."""
    return func.to_tsvector(_SIMPLE, text).op("||")(func.to_tsvector(_ENGLISH, text))


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
