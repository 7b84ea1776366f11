"""Features: the list with its filters, and everything about one."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.examples import ExampleView
from app.queries.labels import LabelSummary, LabelView
from app.queries.saes import SaeDetail

Sort = Literal["density", "max", "index"]
LabelFilter = Literal["labelled", "unlabelled"]


@dataclass(frozen=True, slots=True)
class FeatureFilter:
    """Which features to list, and in which order. `cursor` is a `FeaturePage.next_cursor` of the same sort.

    `q` searches label explanations, label categories and top tokens.
    """

    sort: Sort = "density"
    descending: bool = True
    min_density: float | None = None
    max_density: float | None = None
    q: str = ""
    label: LabelFilter | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class TopToken:
    """A token a feature is active on; `share` is of the feature's activation mass."""

    id: int
    bytes: bytes
    special: bool
    count: int
    share: float
    mean: float


@dataclass(frozen=True, slots=True)
class OutputToken:
    """A token whose logit the feature's decoder direction raises or lowers directly."""

    id: int
    bytes: bytes
    special: bool
    logit: float


@dataclass(frozen=True, slots=True)
class CoactiveFeature:
    """A feature active on the same tokens. `given_this` is P(other active | this active), `joint` a token count."""

    index: int
    label: LabelSummary | None
    pmi: float
    joint: int
    given_this: float
    given_other: float


@dataclass(frozen=True, slots=True)
class NearFeature:
    """A feature with a near decoder direction."""

    index: int
    label: LabelSummary | None
    cosine: float


@dataclass(frozen=True, slots=True)
class TopicShare:
    """A document topic: the feature's active tokens in it, their share, and the share over the topic's own (lift)."""

    topic: str
    count: int
    share: float
    lift: float


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature as the list shows it; `histogram` holds counts of 50 equal bins over (0, max]."""

    index: int
    density: float
    count: int
    max: float
    mean: float
    histogram: tuple[int, ...]
    top_tokens: tuple[TopToken, ...]
    example: ExampleView | None
    label: LabelSummary | None
    health: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """One page of a list; `total` counts all features that pass the filter, on all pages."""

    rows: tuple[FeatureRow, ...]
    next_cursor: str | None
    total: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of non-zero activations in bins; `edges` has one entry more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FeatureDetail:
    """Everything a feature's page shows but its examples."""

    index: int
    tokens: int
    density: float
    count: int
    max: float
    mean: float
    histogram: Histogram
    band_edges: tuple[float, ...]
    top_tokens: tuple[TopToken, ...]
    promoted: tuple[OutputToken, ...]
    suppressed: tuple[OutputToken, ...]
    coactive: tuple[CoactiveFeature, ...]
    near: tuple[NearFeature, ...]
    topics: tuple[TopicShare, ...]
    health: tuple[str, ...]
    labels: tuple[LabelView, ...]


async def list_features(session: AsyncSession, sae: SaeDetail, filter: FeatureFilter) -> FeaturePage:
    """One page of an SAE's features; empty without an index.

    Raises:
        Unprocessable: a bound, limit, sort, label filter or cursor that makes no sense.
    """
    raise NotImplementedError


async def get_feature(session: AsyncSession, sae: SaeDetail, index: int) -> FeatureDetail | None:
    """One feature of the SAE's current index; None where there is no such feature or no index."""
    raise NotImplementedError


async def feature_histograms(session: AsyncSession, sae: SaeDetail, indices: list[int]) -> dict[int, Histogram]:
    """Activation histograms of many features, for percentiles of live activations."""
    raise NotImplementedError
