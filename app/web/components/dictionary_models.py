"""Entries of a dictionary as the API and its files write them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.services.dictionary import Entry


class EntryOut(BaseModel):
    """What a feature means, and by whose word."""

    sae: str
    index: Annotated[str, Field(description="Hash of the index.")]
    feature: int
    explanation: str
    categories: list[str]
    by: Annotated[Literal["decision", "agreement"], Field(description="A reviewer decided, or all labels agree.")]
    people: Annotated[int, Field(description="People who labelled the feature in the set.")]
    set: str
    score: Annotated[float | None, Field(description="Balanced accuracy of the newest detection test.")]
    score_low: float | None
    score_high: float | None
    at: datetime
    withdrawn: Annotated[
        bool, Field(description="True if all labels that the decision was made between were discarded since.")
    ]

    @classmethod
    def of(cls, sae: str, index: str, entry: Entry) -> "EntryOut":
        """Return an entry of a dictionary."""
        measured = entry.score.score.get("balanced_accuracy") if entry.score else None
        return cls(
            sae=sae,
            index=index,
            feature=entry.agreed.feature,
            explanation=entry.agreed.explanation,
            categories=list(entry.agreed.categories),
            by="decision" if entry.agreed.is_decision else "agreement",
            people=entry.people,
            set=entry.agreed.label_set,
            score=measured["value"] if measured else None,
            score_low=measured["low"] if measured else None,
            score_high=measured["high"] if measured else None,
            at=entry.agreed.at,
            withdrawn=entry.agreed.is_withdrawn,
        )
