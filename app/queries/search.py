"""Search among features: full text over labels and top tokens."""

import re

from sqlalchemy import CompoundSelect, exists, func, literal_column, or_, select, union

from app.tables import Feature, Label

_SIMPLE, _ENGLISH = literal_column("'simple'"), literal_column("'english'")
"""Literal, because the planner must see that they are those of the indexes."""


def matching_features(sae_id: int, index_id: int, words: str) -> CompoundSelect[int]:
    """Numbers of the features whose submitted labels or top tokens match all of `words`, each as a prefix."""
    prefixes = " & ".join(f"{word}:*" for word in re.findall(r"[^\W_]+", words))
    of_tokens = select(Feature.number).where(Feature.index_id == index_id)
    of_labels = select(Label.feature).where(Label.sae_id == sae_id, Label.status == "submitted")
    if not prefixes:  # full text knows words only; punctuation has to be looked for by reading
        return union(
            of_tokens.where(Feature.top_tokens_text.contains(words, autoescape=True)),
            of_labels.where(Label.explanation.contains(words, autoescape=True)),
        )
    simple = func.to_tsquery(_SIMPLE, prefixes)
    english = func.websearch_to_tsquery(_ENGLISH, words)
    category = func.unnest(Label.categories).column_valued("category")
    return union(
        of_tokens.where(func.to_tsvector(_SIMPLE, Feature.top_tokens_text).op("@@")(simple)),
        of_labels.where(
            or_(
                Label.search.op("@@")(simple),
                Label.search.op("@@")(english),
                exists().where(func.lower(category) == words.lower()),
            )
        ),
    )
