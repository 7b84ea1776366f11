"""Scores of blind tests as the API writes them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from app.queries.blind_tests import LabelScore
from app.services.blind_scores import CHANCE, INTRUDER_CHANCE


class EstimateOut(BaseModel):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class KindScoreOut(BaseModel):
    """Right answers among the items of one kind."""

    correct: int
    items: int
    share: EstimateOut


class ScoreOut(BaseModel):
    """How well somebody answered. Detection and fuzzing have the first measures, an intruder test has `accuracy`."""

    items: int
    chance: Annotated[float, Field(description="What guessing gives: 0.5, or 0.2 of an intruder test.")]
    balanced_accuracy: EstimateOut | None = None
    f1: EstimateOut | None = None
    auprc: Annotated[EstimateOut | None, Field(description="Null without confidences, or votes of several.")] = None
    base_rate: Annotated[float | None, Field(description="Share of items whose truth is yes: AUPRC by chance.")] = None
    accuracy: EstimateOut | None = None
    floor: Annotated[
        EstimateOut | None,
        Field(description="Of a model: its balanced accuracy on the same items with the label of another feature."),
    ] = None
    by_kind: Annotated[
        dict[str, KindScoreOut],
        Field(description="`band_1` to `band_5`, `random`, `near_miss`, `neighbour` or `random_marks`."),
    ]

    @classmethod
    def of(cls, kind: str, score: dict[str, Any]) -> "ScoreOut":
        """Return a stored score."""
        return cls(chance=INTRUDER_CHANCE if kind == "intruder" else CHANCE, **score)


class LabelScoreOut(BaseModel):
    """Score of one person on a blind test of a label."""

    test: Annotated[int, Field(description="Id of the test; its page is /tests/{test}.")]
    kind: str
    tester: str
    is_current: Annotated[bool, Field(description="False if the label has another text by now.")]
    score: ScoreOut
    answered_at: datetime

    @classmethod
    def of(cls, score: LabelScore) -> "LabelScoreOut":
        """Return the score of a query's view."""
        return cls(
            test=score.test_id,
            kind=score.kind,
            tester=score.tester,
            is_current=score.is_current,
            score=ScoreOut.of(score.kind, score.score),
            answered_at=score.answered_at,
        )
