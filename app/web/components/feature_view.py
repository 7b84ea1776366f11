"""A feature's page as data: for the site, for a frame on another site, and for the static export.

All three show the same sections, templates/features/_sections. They differ by `FeatureView.links`, by their charts, and
by what needs a server.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlencode

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.examples import neighbour_examples
from app.queries.features import CoactiveFeature, FeatureDetail, Histogram, NearFeature, TopToken
from app.queries.saes import SaeDetail
from app.web.components import example_lines, glossary
from app.web.components.example_lines import Example
from app.web.components.formatting import count, percent, significant

SNIPPET = {"before": 5, "after": 3}
"""Tokens around the strongest one of a feature that has no label, where it is named among others."""
_TITLE_TOKENS = 3

Drawn = TypeVar("Drawn")


@dataclass(frozen=True, slots=True)
class Band:
    """A fifth of a feature's activations, from `low` to `high`, with examples drawn from it."""

    name: str
    low: float
    high: float
    examples: list[Example]


@dataclass(frozen=True, slots=True)
class Heading:
    """Title of a feature's page: its name, and how often it fires."""

    number: int
    label: str
    tokens: tuple[TopToken, ...]
    """Its top tokens, which replace a missing label."""
    sentence: str
    flags: tuple[str, ...]
    health: Mapping[str, str]
    """The meaning of each flag."""


class Links(Protocol):
    """Addresses on a feature's page; None where the page has no target."""

    here: str | None
    """The feature's own address, where a server answers."""
    json: str | None
    probe: str | None
    origin: str
    """The section of the SAE's page that says where it and its text are from."""
    lacking: str
    """The section of the SAE's page that says what an import lacks."""

    def feature(self, number: int) -> str | None:
        """Return the address of another feature."""

    def token(self, text: str) -> str | None:
        """Return the address of the features that fire on a token."""

    def topic(self, topic: str) -> str | None:
        """Return the address of the features over-represented in a topic."""


class SiteLinks:
    """Addresses on the site."""

    here: str | None
    json: str | None
    probe: str | None

    def __init__(self, sae: SaeDetail, number: int) -> None:
        base = f"/saes/{sae.slug}"
        self._features = f"{base}/features"
        self.here = self.feature(number)
        self.json = f"/api/v1{self.here}"
        self.probe = f"{base}/probe" if sae.has_weights else None
        self.origin = f"{base}#origin"
        self.lacking = f"{base}#lacking"

    def feature(self, number: int) -> str:
        """Return the address of another feature."""
        return f"{self._features}/{number}"

    def token(self, text: str) -> str:
        """Return the address of the features that fire on a token."""
        return f"{self._features}?{urlencode({'token': text})}"

    def topic(self, topic: str) -> str:
        """Return the address of the features over-represented in a topic."""
        return f"{self._features}?{urlencode({'topic': topic})}"


@dataclass(frozen=True, slots=True)
class FeatureView:
    """Data that every page of a feature shows.

    `histogram` is a chart in the form that the page draws. `sparks` are the histograms of its neighbours, None on
    a page without them.
    """

    sae: SaeDetail
    detail: FeatureDetail
    links: Links
    heading: Heading
    top: list[Example]
    bands: list[Band]
    previous: int | None = None
    next: int | None = None
    histogram: object = None
    snippets: Mapping[int, example_lines.Line] | None = None
    sparks: Mapping[int, tuple[int, ...]] | None = None

    @property
    def is_imported(self) -> bool:
        """True if the statistics were not counted here."""
        return glossary.is_imported_index(self.sae)

    @property
    def not_counted(self) -> str:
        """Return the tokens that were not counted."""
        return glossary.not_counted(self.sae)

    @property
    def nothing_to_show(self) -> str:
        """Return the reason why there are no examples."""
        if self.detail.count:
            return f"{'The export has' if self.is_imported else 'There is'} no example of this feature."
        tokens = count(self.detail.tokens)
        if self.is_imported:
            return f"It was not active on any of the {tokens} tokens that the export counted."
        return f"This feature is dead: it was not active on any of the {tokens} counted tokens."

    @property
    def bands_note(self) -> str:
        """Return how the bands divide the activations."""
        parts = "All activations above zero, sorted and cut into five parts of equal number (quantiles); examples drawn"
        if self.is_imported:
            parts = "Intervals of activation as the export has them, with examples drawn"
        return f"{parts} from each. A feature that means one thing still means it in the weaker fifths."

    @property
    def tokens_note(self) -> str:
        """Return which tokens the top tokens are."""
        within = " in the examples on this page, which is all that the export has" if self.is_imported else ""
        return f"tokens that carry most of its activation{within}"

    @staticmethod
    def coactive_note(other: CoactiveFeature) -> str:
        """Return how often this feature and another fire together."""
        return (
            f"On {count(other.joint)} tokens: {percent(other.given_this)} of this feature's, "
            f"{percent(other.given_other)} of the other's. Pointwise mutual information {significant(other.pmi)}."
        )


def feature_view(
    sae: SaeDetail,
    detail: FeatureDetail,
    examples: Iterable[Example],
    *,
    links: Links,
    previous: int | None = None,
    next: int | None = None,
    histogram: object = None,
    snippets: Mapping[int, example_lines.Line] | None = None,
    sparks: Mapping[int, tuple[int, ...]] | None = None,
) -> FeatureView:
    """Return the data of a feature's page, with its examples grouped by band."""
    by_band: dict[int, list[Example]] = {}
    for example in examples:
        by_band.setdefault(example.view.band, []).append(example)
    edges = detail.band_edges
    return FeatureView(
        sae=sae,
        detail=detail,
        links=links,
        heading=heading(sae, detail),
        top=by_band.get(0, []),
        bands=[
            Band(name, edges[band - 1], edges[band], by_band[band])
            for band, name in glossary.BANDS.items()
            if band in by_band
        ],
        previous=previous,
        next=next,
        histogram=histogram,
        snippets=snippets,
        sparks=sparks,
    )


def heading(sae: SaeDetail, detail: FeatureDetail) -> Heading:
    """Return the heading of a feature's page."""
    explained = (label.explanation for label in detail.labels if label.status == "submitted" and label.explanation)
    is_decided = detail.label is not None and detail.label.is_decision
    label = detail.label.explanation if detail.label and is_decided else next(explained, "")
    return Heading(
        number=detail.index,
        label=label,
        tokens=tuple(detail.top_tokens[:_TITLE_TOKENS]),
        sentence=_sentence(sae, detail, is_labelled=bool(label)),
        flags=tuple(detail.health),
        health=glossary.health(sae),
    )


def _sentence(sae: SaeDetail, detail: FeatureDetail, *, is_labelled: bool) -> str:
    """Return how often a feature fires, and that nobody has labelled it if so."""
    assert sae.index is not None
    tokens = f"{count(detail.tokens)} tokens of {sae.index.sequence_set.corpus.title}"
    fires = f"Never active on {tokens}."
    if detail.count:
        fires = f"Fires on {percent(detail.density)} of {tokens}, up to {significant(detail.max)}."
    if is_labelled:
        return fires
    return f"{fires} Nobody has labelled it yet{'; these are its top tokens' if detail.top_tokens else ''}."


def histogram(
    sae: SaeDetail, detail: FeatureDetail, draw: Callable[[Histogram, tuple[float, ...], str], Drawn]
) -> Drawn | None:
    """Return the feature's activations as `draw` draws them; None where there is nothing to draw."""
    if not any(detail.histogram.counts):
        return None
    divided = "the export's intervals" if glossary.is_imported_index(sae) else "fifths"
    return draw(detail.histogram, tuple(detail.band_edges), divided)


def neighbours(detail: FeatureDetail) -> list[CoactiveFeature | NearFeature]:
    """Return the co-active and the near features, which a feature's page names."""
    return [*detail.coactive, *detail.near]


async def neighbour_pictures(
    session: AsyncSession, sae: SaeDetail, detail: FeatureDetail, known: Collection[int] = ()
) -> tuple[dict[int, tuple[int, ...]], dict[int, example_lines.Line]]:
    """Return each neighbour's histogram, and some words around the strongest token of those without a label.

    Words of the `known` neighbours are left out.
    """
    shown = neighbours(detail)
    unlabelled = {other.index for other in shown if other.label is None}.difference(known)
    numbers = {other.index for other in shown}
    sparks, views = await neighbour_examples(session, sae, numbers, unlabelled, **SNIPPET)
    return sparks, {index: example_lines.cut(view, view.activation) for index, view in views.items()}
