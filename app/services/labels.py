"""Rules of labelling: limits of the text, one label a person a feature a set, and no change lost."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.queries.labels import LabelText, LabelView
from app.queries.saes import SaeDetail

MAX_EXPLANATION = 2_000
MAX_CATEGORIES = 10
MAX_CATEGORY = 40
SCALE = range(1, 6)
"""Of interpretability and confidence."""


class LabelConflict(Conflict):
    """The label changed since it was read. Carries both texts, so that neither is lost."""

    def __init__(self, current: LabelView | None, submitted: LabelText) -> None:
        super().__init__("Your label was changed elsewhere since you opened it: compare both texts and save again.")
        self.current = current
        self.submitted = submitted


async def save_label(
    session: AsyncSession,
    sae: SaeDetail,
    feature: int,
    *,
    author: str,
    text: LabelText,
    expected_version: int | None,
    label_set: str = "default",
) -> LabelView:
    """Write one person's label; `expected_version` is the version that was read, None if there was no label yet.

    Raises:
        NotFound: the SAE has no such feature.
        Unprocessable: the text is empty, too long, or holds what a label cannot.
        LabelConflict: the label has another version by now.
    """
    raise NotImplementedError
