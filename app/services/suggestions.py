"""Suggestions of a feature as people see them: what models said, and a sentence from the statistics of this moment."""

from app.queries.features import FeatureDetail
from app.queries.saes import SaeDetail
from app.queries.suggestions import SuggestionView
from app.services.plain_suggestions import plain_suggestion


def shown_suggestions(sae: SaeDetail, detail: FeatureDetail) -> list[SuggestionView]:
    """Return a feature's suggestions, those of models first.

    A sentence from statistics is always there where something can be said: if none is stored of the current index, it
    is made now, and has no id.
    """
    index = sae.index.id if sae.index else None
    shown = [view for view in detail.suggestions if view.source == "model" or view.index_id == index]
    text = plain_suggestion(detail)
    if text is not None and all(view.source == "model" for view in shown):
        shown.append(
            SuggestionView(
                id=None,
                feature=detail.index,
                source="statistics",
                model="",
                prompt="",
                text=text,
                error=None,
                scores=None,
                index_id=index,
                run=None,
                created_at=None,
            )
        )
    return shown


def find_shown(suggestions: list[SuggestionView], name: str) -> SuggestionView | None:
    """Return the suggestion that an address names by its id, or as `statistics`; None for one without a text."""
    found = next((view for view in suggestions if name in (str(view.id), view.source) and name != "model"), None)
    return found if found is not None and found.text is not None else None
