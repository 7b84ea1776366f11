"""Labels and their history."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class LabelView:
    """One person's label of one feature in one set."""

    id: int
    sae_id: int
    feature: int
    author: str
    label_set: str
    status: str
    version: int
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    confidence: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class LabelRevisionView:
    """A label as it stood at one version."""

    version: int
    status: str
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    confidence: int | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What a list says of a feature's labels: how many are submitted, and the newest one's text and author."""

    count: int
    explanation: str
    author: str


@dataclass(frozen=True, slots=True)
class LabelText:
    """What a person writes in a label."""

    explanation: str
    categories: tuple[str, ...] = ()
    interpretability: int | None = None
    confidence: int | None = None
    status: str = "submitted"


async def list_labels(session: AsyncSession, sae_id: int, feature: int) -> list[LabelView]:
    """All labels of one feature, newest first, drafts too."""
    raise NotImplementedError


async def get_label(session: AsyncSession, label_id: int) -> LabelView | None:
    """The label with this id."""
    raise NotImplementedError


async def find_label(session: AsyncSession, sae_id: int, feature: int, author: str, label_set: str) -> LabelView | None:
    """One person's label of a feature in a set."""
    raise NotImplementedError


async def label_summaries(session: AsyncSession, sae_id: int, features: Collection[int]) -> dict[int, LabelSummary]:
    """Summaries of the submitted labels of many features; features without one are absent."""
    raise NotImplementedError


async def put_label(
    session: AsyncSession,
    *,
    sae_id: int,
    feature: int,
    author: str,
    label_set: str,
    text: LabelText,
    expected_version: int | None,
) -> LabelView | None:
    """Write a label and its revision, if its version is still `expected_version` (None: there is none yet).

    Returns:
        The label as written, or None where the version is another; nothing is then written.
    """
    raise NotImplementedError


async def label_history(session: AsyncSession, label_id: int) -> list[LabelRevisionView]:
    """All versions of a label, newest first; empty where there is no such label."""
    raise NotImplementedError
