"""The labels of a feature with the form to write one, as the feature's page shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Form
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries.blind_tests import label_scores
from app.queries.feature_list import FeatureRow
from app.queries.label_sets import DEFAULT
from app.queries.labels import LabelRevisionView, LabelText, LabelView, label_histories
from app.queries.sql.visibility import Reader
from app.services.actors import Actor
from app.services.labels import SCALE, LabelConflict
from app.web.components import glossary
from app.web.components.blind_view import ResultLine

_NOTHING = LabelText("")


@dataclass(frozen=True, slots=True)
class Change:
    """What one revision changed of one field: its value before and after; `before` is None in the first revision."""

    field: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class ShownRevision:
    """A revision with what it changed."""

    view: LabelRevisionView
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class ShownLabel:
    """A label with all its versions, newest first."""

    view: LabelView
    history: Sequence[LabelRevisionView] = ()
    scores: Sequence[ResultLine] = ()
    """What people scored on blind tests of it."""

    @property
    def facts(self) -> list[str]:
        """Return the facts beside its author: what they chose, that it is a draft, and its set."""
        view = self.view
        clear = [glossary.INTERPRETABILITY[view.interpretability]] if view.interpretability else []
        sure = [glossary.CONFIDENCE[view.confidence]] if view.confidence else []
        of_set = [f"set {view.label_set}"] if view.label_set != DEFAULT else []
        return [*clear, *sure, *(["draft"] if view.status == "draft" else []), *of_set]

    @property
    def revisions(self) -> list[ShownRevision]:
        """Return its versions with what each changed, newest first."""
        before = [*self.history[1:], None]
        return [ShownRevision(view, _changes(view, old)) for view, old in zip(self.history, before, strict=True)]


def _changes(view: LabelRevisionView, before: LabelRevisionView | None) -> list[Change]:
    """Return the fields that differ from the version before; of the first version those that say something."""
    now, old = _values(view), _values(before) if before else {}
    return [
        Change(field, old.get(field), value)
        for field, value in now.items()
        if (value != old[field] if before else value)
    ]


def _values(view: LabelRevisionView) -> dict[str, str]:
    return {
        "explanation": view.explanation,
        "categories": ", ".join(view.categories),
        "interpretability": str(view.interpretability or ""),
        "confidence": str(view.confidence or ""),
        "can’t tell": "yes" if view.cant_tell else "",
        "status": view.status,
    }


@dataclass(frozen=True, slots=True)
class LabelFields:
    """Fields of the form, as a browser sends them. What a request leaves out stays as it is in the saved label."""

    explanation: Annotated[str | None, Form()] = None
    categories: Annotated[list[str] | None, Form()] = None
    interpretability: Annotated[str | None, Form()] = None
    confidence: Annotated[str | None, Form()] = None
    cant_tell: Annotated[list[str] | None, Form()] = None
    status: Annotated[str, Form()] = ""
    version: Annotated[str, Form()] = ""

    def text(self, saved: LabelView | None = None) -> LabelText:
        """Return the label's text; `saved` is the label that it changes."""
        old = saved.text if saved else _NOTHING
        chosen = None if self.categories is None else tuple(",".join(self.categories).split(","))
        return LabelText(
            explanation=old.explanation if self.explanation is None else self.explanation,
            categories=old.categories if chosen is None else chosen,
            interpretability=_score(self.interpretability, old.interpretability),
            confidence=_score(self.confidence, old.confidence),
            status="draft" if self.status == "draft" else "submitted",
            cant_tell=old.cant_tell if self.cant_tell is None else "true" in self.cant_tell,
        )

    @property
    def version_read(self) -> int | None:
        """Return the version that was read, None for a new label."""
        return int(self.version) if self.version.isdecimal() and len(self.version) < 10 else None


def _score(sent: str | None, saved: int | None) -> int | None:
    if sent is None:
        return saved
    return int(sent) if sent in {str(value) for value in SCALE} else None


@dataclass(frozen=True, slots=True)
class LabelForm:
    """Values of the form. `version` is the version of the `author`'s label, None for a new one.

    `choices` are the categories of the set, empty where they are free. `error` is the reason why it was not saved; with
    `conflict`, `theirs` was saved in the meantime.
    """

    author: str
    version: int | None = None
    text: LabelText = _NOTHING
    choices: tuple[str, ...] = ()
    error: str = ""
    conflict: bool = False
    theirs: LabelView | None = None
    is_open: bool = False
    has_draft: bool = False
    """True if the text is what the author was typing."""

    @property
    def explanation(self) -> str:
        """Return the explanation."""
        return self.text.explanation

    @property
    def categories(self) -> str:
        """Return the categories as they are typed."""
        return ", ".join(name for name in map(str.strip, self.text.categories) if name)

    @property
    def options(self) -> list[tuple[str, bool]]:
        """Return the categories to choose from, and whether each is chosen."""
        chosen = [name for name in self.text.categories if name]
        return [(name, name in chosen) for name in dict.fromkeys([*self.choices, *chosen])]

    @classmethod
    def of(
        cls,
        actor: Actor,
        labels: Sequence[LabelView],
        *,
        is_open: bool = False,
        draft: Mapping[str, Any] | None = None,
    ) -> "LabelForm":
        """Return the form with the actor's own label in the default set, if there is one, or what they were typing."""
        mine = next((label for label in labels if actor.owns(label.person_id) and label.label_set == DEFAULT), None)
        return cls.of_label(actor, mine, is_open=is_open, draft=draft)

    @classmethod
    def of_label(
        cls,
        actor: Actor,
        mine: LabelView | None,
        *,
        choices: tuple[str, ...] = (),
        is_open: bool = False,
        draft: Mapping[str, Any] | None = None,
    ) -> "LabelForm":
        """Return the form with the actor's own label, and what they were typing in place of it."""
        text = mine.text if mine else _NOTHING
        if draft is not None:
            text = replace(text, **{**draft, "categories": tuple(draft["categories"])})
        return cls(
            actor.name, mine.version if mine else None, text, choices, is_open=is_open, has_draft=draft is not None
        )

    @classmethod
    def refused(
        cls,
        actor: Actor,
        fields: LabelFields,
        error: UserError,
        *,
        saved: LabelView | None = None,
        choices: tuple[str, ...] = (),
    ) -> "LabelForm":
        """Return the form as it was sent, with the error. After a conflict it changes the newer version."""
        form = cls(actor.name, fields.version_read, fields.text(saved), choices, str(error), is_open=True)
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
