"""Labels as the API writes them."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.queries.labels import LabelView
from app.services.labels import SCALE

Score = Annotated[int, Field(ge=SCALE[0], le=SCALE[-1])]


class DraftIn(BaseModel):
    """What a person is typing. It is no label: nobody else sees it, and it has no history."""

    model_config = ConfigDict(extra="forbid")

    explanation: str = ""
    categories: list[str] = []
    interpretability: Score | None = None
    confidence: Score | None = None
    cant_tell: bool = False


class LabelOut(BaseModel):
    """One person's label of a feature."""

    id: int
    author: Annotated[str, Field(description="The name of who wrote it.")]
    verified: Annotated[bool, Field(description="True if the author signed in with an account.")]
    set: str
    status: str
    version: int
    explanation: str
    categories: list[str]
    interpretability: int | None
    confidence: int | None
    cant_tell: bool
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, label: LabelView) -> "LabelOut":
        """Return the label of a query's view."""
        return cls(
            id=label.id,
            author=label.author,
            verified=label.is_account,
            set=label.label_set,
            status=label.status,
            version=label.version,
            explanation=label.explanation,
            categories=list(label.categories),
            interpretability=label.interpretability,
            confidence=label.confidence,
            cant_tell=label.cant_tell,
            created_at=label.created_at,
            updated_at=label.updated_at,
        )


class _OfFeature(BaseModel):
    sae: str
    feature: int


class ExportedLabel(LabelOut, _OfFeature):
    """One label as a row of a file, which says what it is a label of."""

    @classmethod
    def in_file(cls, sae: str, label: LabelView) -> "ExportedLabel":
        """Return the label of a query's view; `sae` is the slug of its SAE."""
        return cls(sae=sae, feature=label.feature, **LabelOut.of(label).model_dump())
