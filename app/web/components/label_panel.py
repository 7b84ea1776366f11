"""The labels of a feature with the form to write one, as the feature's page shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Form
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries.blind_tests import label_scores
from app.queries.feature_list import FeatureRow
from app.queries.label_sets import DEFAULT
from app.queries.labels import LabelRevisionView, LabelText, LabelView, label_histories
from app.queries.sql.visibility import Reader
from app.services.actors import Actor
from app.services.labels import LabelConflict
from app.web.components import glossary
from app.web.components.blind_view import ResultLine


@dataclass(frozen=True, slots=True)
class ShownLabel:
    """A label with all its versions, newest first."""

    view: LabelView
    history: Sequence[LabelRevisionView] = ()
    scores: Sequence[ResultLine] = ()
    """What people scored on blind tests of it."""

    @property
    def facts(self) -> list[str]:
        """Return the facts beside its author: their confidence, and that it is a draft."""
        sure = [glossary.CONFIDENCE[self.view.confidence]] if self.view.confidence else []
        return [*sure, *(["draft"] if self.view.status == "draft" else [])]


@dataclass(frozen=True, slots=True)
class LabelFields:
    """Fields of the form, as a browser sends them."""

    explanation: Annotated[str, Form()] = ""
    categories: Annotated[str, Form()] = ""
    confidence: Annotated[str, Form()] = ""
    draft: Annotated[bool, Form()] = False
    version: Annotated[str, Form()] = ""

    def text(self, saved: LabelView | None = None) -> LabelText:
        """Return the label's text, with what the form does not show as in the `saved` label."""
        known = {str(value) for value in glossary.CONFIDENCE}
        return LabelText(
            explanation=self.explanation,
            categories=tuple(self.categories.split(",")),
            interpretability=saved.interpretability if saved else None,
            confidence=int(self.confidence) if self.confidence in known else None,
            status="draft" if self.draft else "submitted",
            cant_tell=saved.cant_tell if saved and not self.explanation else False,
        )

    @property
    def version_read(self) -> int | None:
        """Return the version that was read, None for a new label."""
        return int(self.version) if self.version.isdecimal() and len(self.version) < 10 else None


@dataclass(frozen=True, slots=True)
class LabelForm:
    """Values of the form. `version` is the version of the `author`'s label, None for a new one.

    `error` is the reason why it was not saved; with `conflict`, `theirs` was saved in the meantime.
    """

    author: str
    version: int | None = None
    explanation: str = ""
    categories: str = ""
    confidence: int | None = None
    draft: bool = False
    error: str = ""
    conflict: bool = False
    theirs: LabelView | None = None
    is_open: bool = False

    @classmethod
    def of(cls, actor: Actor, labels: Sequence[LabelView], *, is_open: bool = False) -> "LabelForm":
        """Return the form with the actor's own label, if there is one."""
        mine = next((label for label in labels if actor.owns(label.person_id) and label.label_set == DEFAULT), None)
        if mine is None:
            return cls(author=actor.name, is_open=is_open)
        return cls(
            author=actor.name,
            version=mine.version,
            explanation=mine.explanation,
            categories=", ".join(mine.categories),
            confidence=mine.confidence,
            draft=mine.status == "draft",
            is_open=is_open,
        )

    @classmethod
    def refused(cls, actor: Actor, fields: LabelFields, error: UserError) -> "LabelForm":
        """Return the form as it was sent, with the error. After a conflict it changes the newer version."""
        form = cls(
            author=actor.name,
            version=fields.version_read,
            explanation=fields.explanation,
            categories=fields.categories,
            confidence=fields.text().confidence,
            draft=fields.draft,
            error=str(error),
            is_open=True,
        )
        if not isinstance(error, LabelConflict):
            return form
        theirs = error.current
        return replace(form, conflict=True, theirs=theirs, version=theirs.version if theirs else None)


@dataclass(frozen=True, slots=True)
class LabelPanel:
    """The labels of a feature and the form."""

    labels: list[ShownLabel]
    form: LabelForm
    saved: bool = False
    next: FeatureRow | None = None
    """The feature to label next; None outside the flow of labelling, or if every feature has a label."""

    @property
    def confidence(self) -> Mapping[int, str]:
        """Return the levels of confidence."""
        return glossary.CONFIDENCE


async def label_panel(
    session: AsyncSession,
    labels: Sequence[LabelView],
    form: LabelForm,
    *,
    reader: Reader,
    saved: bool = False,
    next: FeatureRow | None = None,
) -> LabelPanel:
    """Return the panel of these labels, each with its history."""
    histories = await label_histories(session, labels, reader=reader)
    scores = await label_scores(session, [label.id for label in labels])
    shown = [
        ShownLabel(label, histories.get(label.id, ()), [ResultLine.of_label(each) for each in scores.get(label.id, [])])
        for label in labels
    ]
    return LabelPanel(shown, form, saved, next)
