"""SAEs: what they are, and the overview of all their features."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.corpora import SequenceSetInfo
from app.queries.models import ModelInfo


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """The published index of an SAE. `tokens` were counted; `topics` are the names that features refer to."""

    id: int
    sequence_set: SequenceSetInfo
    tokens: int
    topics: tuple[str, ...]
    provenance: Mapping[str, Any]
    published_at: datetime


@dataclass(frozen=True, slots=True)
class SaeDetail:
    """An SAE with its model and its current index (None until one is published)."""

    id: int
    slug: str
    model: ModelInfo
    hook: str
    architecture: str
    d_in: int
    d_sae: int
    k: float | None
    artifact: str
    weights_sha256: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    created_by: str
    created_at: datetime
    index: IndexInfo | None
    labelled: int
    """Features with at least one submitted label."""


@dataclass(frozen=True, slots=True)
class DensityHistogram:
    """Features by log10 of their density, dead ones apart; `edges` has one entry more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    dead: int


async def register_sae(
    session: AsyncSession,
    *,
    slug: str,
    model_id: int,
    hook: str,
    architecture: str,
    d_in: int,
    d_sae: int,
    k: float | None,
    artifact: str,
    weights_sha256: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    created_by: str,
) -> SaeDetail:
    """The SAE of this slug and these weights, registered if it is new; `artifact` and `metrics` are brought up to date.

    Raises:
        Conflict: the slug belongs to other weights, whose labels would be lost.
    """
    raise NotImplementedError


async def set_metrics(session: AsyncSession, sae_id: int, metrics: Mapping[str, Any]) -> None:
    """Add or replace evaluation metrics by name, keeping the others."""
    raise NotImplementedError


async def list_saes(session: AsyncSession) -> list[SaeDetail]:
    """All SAEs, newest first."""
    raise NotImplementedError


async def get_sae(session: AsyncSession, slug: str) -> SaeDetail | None:
    """The SAE with this slug."""
    raise NotImplementedError


async def density_histogram(session: AsyncSession, sae: SaeDetail, *, bins: int = 40) -> DensityHistogram | None:
    """How the densities of all features are distributed; None without an index."""
    raise NotImplementedError


async def health_counts(session: AsyncSession, sae: SaeDetail) -> dict[str, int]:
    """How many features carry each health flag ("dead", "dense", "duplicate", ...)."""
    raise NotImplementedError
