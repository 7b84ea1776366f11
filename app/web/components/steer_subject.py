"""A feature that is steered, with strengths from its own range in the corpus."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.queries.features import FeatureDetail, Histogram, get_feature
from app.queries.saes import SaeDetail
from app.services.controls import named_sae
from app.services.sweep import default_values
from app.web.components.steer_form import Row

_DEFAULT_STRENGTH = 2.0
"""Of a feature's maximum activation: most features show at it, and few models break."""
_UNKNOWN_STRENGTH = 10.0
SLIDER_END = 10
"""Of the slider, in maximum activations."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A strength to choose, from the feature's own range."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A feature that is steered, and how strong it is in the corpus."""

    sae: SaeDetail
    number: int
    label: str | None
    marks: list[Mark]
    maximum: float
    """In the index; 0 where it was never active there, or without one."""

    @property
    def default_value(self) -> float:
        """Strength that the form starts with."""
        return float(f"{_DEFAULT_STRENGTH * self.maximum:.4g}") or _UNKNOWN_STRENGTH

    @property
    def sweep_values(self) -> tuple[float, ...]:
        """Strengths of a sweep; none where its range is not known."""
        return default_values(self.maximum) if self.maximum else ()


async def subject_of(session: AsyncSession, sae: SaeDetail, row: Row) -> Subject | None:
    """Return the feature of a row; None where the row is empty.

    Raises:
        NotFound: there is no such SAE.
        Unprocessable: the feature is not a number.
    """
    if row.number is None:
        return None
    own = await named_sae(session, sae, row.sae or None)
    if own.model.id != sae.model.id:
        raise NotFound(f"{own.slug} is an SAE of another model.")
    detail = await get_feature(session, own, row.number)
    if detail is None:
        return Subject(own, row.number, None, [], 0.0)
    return Subject(own, row.number, label_of(detail), _marks(detail), detail.max)


def label_of(detail: FeatureDetail) -> str | None:
    """Return the first explanation of a feature."""
    return next((label.explanation for label in detail.labels if label.explanation), None)


def _marks(detail: FeatureDetail) -> list[Mark]:
    if detail.max <= 0:
        return []
    return [
        Mark("median", _quantile(detail.histogram, 0.5)),
        Mark("99 %", _quantile(detail.histogram, 0.99)),
        Mark("maximum", detail.max),
        *(Mark(f"{factor} × maximum", factor * detail.max) for factor in (2, 5, 10)),
    ]


def _quantile(histogram: Histogram, share: float) -> float:
    """Return a quantile of the non-zero activations, interpolated within its bin."""
    wanted, below = share * sum(histogram.counts), 0
    for count, low, high in zip(histogram.counts, histogram.edges, histogram.edges[1:], strict=False):
        if count and below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
        below += count
    return histogram.edges[-1]
