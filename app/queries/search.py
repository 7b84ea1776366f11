"""Full-text search over the labels and top tokens of features."""

import re

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CompoundSelect,
    Integer,
    any_,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    union,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.queries.sql.expressions import submitted
from app.tables import Feature, Label
from app.tables.features import TOP_TOKENS

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


def matches(sae_id: int, query: str) -> ColumnElement[bool]:
    """Return the condition that top tokens or submitted labels match all words of `query`, each as a prefix.

    One condition on `feature`, of two that each have an index: Postgres then visits a feature that matches once.
    """
    terms = words(query) or query.split()  # a query without words is searched literally
    prefixes = " & ".join(f"{_quoted(term)}:*" for term in terms)
    of_tokens = _TOP_TOKENS.op("@@")(cast(func.lower(prefixes), TSQUERY))
    labelled = func.array(_labelled(sae_id, query).scalar_subquery(), type_=ARRAY(Integer))
    return or_(of_tokens, Feature.number == any_(labelled))


def _labelled(sae_id: int, query: str) -> CompoundSelect[int]:
    """Select the features with a matching submitted label."""
    of_sae = select(Label.feature).where(Label.sae_id == sae_id, submitted)
    category = func.unnest(Label.categories).column_valued("category")
    categorised = of_sae.where(
        func.cardinality(Label.categories) > _ZERO, exists().where(func.lower(category) == query.lower())
    )
    if not words(query):  # full text indexes words only, so other queries need a scan
        return union(of_sae.where(Label.explanation.contains(query, autoescape=True)), categorised)
    simple = func.to_tsquery(_SIMPLE, " & ".join(f"{word}:*" for word in words(query)))
    english = func.websearch_to_tsquery(_ENGLISH, query)
    return union(of_sae.where(or_(Label.search.op("@@")(simple), Label.search.op("@@")(english))), categorised)


def _quoted(term: str) -> str:
    """Quote a term of a tsquery."""
    doubled = term.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
