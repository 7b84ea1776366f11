"""The labels of a feature with the form to write one, as the feature's page shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.labels import LabelRevisionView, LabelView, label_history
from app.queries.saes import SaeDetail
from app.services.actors import Actor
from app.web.components import glossary


@dataclass(frozen=True, slots=True)
class ShownLabel:
    """A label with all its versions, newest first."""

    view: LabelView
    history: Sequence[LabelRevisionView] = ()

    @property
    def facts(self) -> list[str]:
        """Return what stands beside its author: how sure they are, and that it is a draft."""
        sure = [glossary.CONFIDENCE[self.view.confidence]] if self.view.confidence else []
        return [*sure, *(["draft"] if self.view.status == "draft" else [])]


@dataclass(frozen=True, slots=True)
class LabelForm:
    """What the form holds. `version` is that of the label by `version_author` which it changes, None for a new one.

    `error` says why it was not saved; with `conflict`, `theirs` is what was saved in the meantime.
    """

    author: str
    version: int | None = None
    version_author: str = ""
    explanation: str = ""
    categories: str = ""
    confidence: int | None = None
    error: str = ""
    conflict: bool = False
    theirs: LabelView | None = None
    is_open: bool = False


async def label_panel(
    session: AsyncSession,
    sae: SaeDetail,
    index: int,
    labels: Sequence[LabelView],
    actor: Actor,
    *,
    is_open: bool = False,
) -> dict[str, Any]:
    """What the template of the panel needs, with the form as `actor` finds it."""
    mine = next((label for label in labels if label.author == actor.name and label.label_set == "default"), None)
    form = LabelForm(author=actor.name, version_author=actor.name, is_open=is_open)
    if mine:
        form = LabelForm(
            author=actor.name,
            version=mine.version,
            version_author=actor.name,
            explanation=mine.explanation,
            categories=", ".join(mine.categories),
            confidence=mine.confidence,
            is_open=is_open,
        )
    return {
        "sae": sae,
        "index": index,
        "labels": [ShownLabel(label, await label_history(session, label.id)) for label in labels],
        "form": form,
        "confidence": glossary.CONFIDENCE,
        "saved": False,
    }
