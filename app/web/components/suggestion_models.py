"""Suggestions as the API writes them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.queries.saes import SaeDetail
from app.queries.suggestions import SuggestionView

_Source = Annotated[
    Literal["model", "statistics"],
    Field(description="`statistics`: a plain sentence from top tokens, promoted tokens and topics."),
]


class SuggestionBrief(BaseModel):
    """A machine's suggestion in a list of features, where the feature has no label."""

    text: str
    source: _Source
    model: Annotated[str | None, Field(description="The model's name; null from statistics.")]

    @classmethod
    def of(cls, view: SuggestionView) -> "SuggestionBrief":
        """Return a suggestion that has a text."""
        return cls(text=view.text or "", source=view.source, model=view.model or None)


class SuggestionOut(BaseModel):
    """A machine's suggestion for a label, or why there is none: exactly one of `text` and `error` is set."""

    id: Annotated[int | None, Field(description="Null for a sentence that was made from statistics just now.")]
    source: _Source
    model: Annotated[str | None, Field(description="The model's name; null from statistics.")]
    prompt: Annotated[str | None, Field(description="Version of the prompt: the beginning of its template's hash.")]
    text: str | None
    error: Annotated[str | None, Field(description="Why the model gave no suggestion that can be used.")]
    scores: Annotated[
        Mapping[str, Any] | None,
        Field(
            description="`detection` and `fuzzing` on held-out text by the model `tester`, with intervals, beside the "
            "`floor`: what the suggestion of a random other feature scores on the same items."
        ),
    ]
    current: Annotated[bool, Field(description="False if its evidence is of an index that was replaced since.")]
    run: Annotated[int | None, Field(description="The run that made it; null once that is deleted.")]
    created_at: datetime | None

    @classmethod
    def of(cls, sae: SaeDetail, view: SuggestionView) -> "SuggestionOut":
        """Return a suggestion for this SAE."""
        return cls(
            id=view.id,
            source=view.source,
            model=view.model or None,
            prompt=view.prompt or None,
            text=view.text,
            error=view.error,
            scores=view.scores,
            current=sae.index is not None and view.index_id == sae.index.id,
            run=view.run,
            created_at=view.created_at,
        )
