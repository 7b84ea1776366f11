"""Search among features: full text over labels and top tokens."""

import re

from sqlalchemy import ColumnElement, CompoundSelect, exists, func, literal_column, or_, select, union

from app.tables import Feature, Label

_SIMPLE: ColumnElement[str] = literal_column("'simple'")
_ENGLISH: ColumnElement[str] = literal_column("'english'")
"""Literal, because the planner must see that they are those of the indexes."""


def words(text: str) -> list[str]:
    """The words that full text knows `text` by; none where it is all punctuation.

    Postgres' own parser would skip <script> as markup, and take a/b and foo.com for one word.
    """
    return re.findall(r"[^\W_]+", text)


def matching_features(sae_id: int, index_id: int, query: str) -> CompoundSelect[int]:
    """Numbers of the features whose submitted labels or top tokens match all words of `query`, each as a prefix."""
    prefixes = " & ".join(f"{word}:*" for word in words(query))
    of_tokens = select(Feature.number).where(Feature.index_id == index_id)
    of_labels = select(Label.feature).where(Label.sae_id == sae_id, Label.status == "submitted")
    if not prefixes:  # full text knows words only; punctuation has to be looked for by reading
        return union(
            of_tokens.where(Feature.top_tokens_text.contains(query, autoescape=True)),
            of_labels.where(Label.explanation.contains(query, autoescape=True)),
        )
    simple = func.to_tsquery(_SIMPLE, prefixes)
    english = func.websearch_to_tsquery(_ENGLISH, query)
    category = func.unnest(Label.categories).column_valued("category")
    return union(
        of_tokens.where(func.to_tsvector(_SIMPLE, Feature.top_tokens_text).op("@@")(simple)),
        of_labels.where(
            or_(
                Label.search.op("@@")(simple),
                Label.search.op("@@")(english),
                exists().where(func.lower(category) == query.lower()),
            )
        ),
    )
