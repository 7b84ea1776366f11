"""Search by example: features of a given density that are unusually active on chosen tokens of a text.

**Rank.** A feature's activation on a token is placed within the feature's own distribution over the index, 0 to 100
(`app.inference.ranking`). A feature's percentile is the mean of this over the chosen tokens, with 0 where it is not
active, so that features active on all of them lead. Features outside the density range are left out before the list is
cut, not after: a cut made first would be full of dense features, which are active on any tokens.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, NoWeights, Unprocessable
from app.queries.feature_list import check_range, filter_by_density
from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient
from app.services.inference_messages import ProbeAnswer, ProbeRequest, SaeRef
from app.services.probe import ProbeToken, check_text, probe_tokens

MAX_DENSITY = 0.01
"""Default bound: a feature that is active on more than a hundredth of all tokens says little about a few."""
MAX_CHOSEN = 10_000
"""Positions in one request."""


@dataclass(frozen=True, slots=True)
class FoundFeature:
    """A feature active on chosen tokens, with its activation on each; `percentile` is the mean of its percentiles."""

    index: int
    percentile: float
    activations: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ByExample:
    """The text's tokens, the positions that were chosen, and the features found, best first.

    Of the `active` features on the chosen tokens, `within` have a density in the range that was asked for.
    """

    tokens: tuple[ProbeToken, ...]
    chosen: tuple[int, ...]
    features: tuple[FoundFeature, ...]
    active: int
    within: int


async def by_example(
    session: AsyncSession,
    inference: InferenceClient,
    sae: SaeDetail,
    text: str,
    *,
    chosen: Collection[int] = (),
    min_density: float | None = None,
    max_density: float | None = MAX_DENSITY,
    limit: int,
) -> ByExample:
    """Return the features most unusually active on the chosen tokens of `text`, which is neither kept nor logged.

    Args:
        chosen: positions of tokens; empty means all counted ones.
        limit: most features.

    Raises:
        NotFound: the SAE has no index, and so no densities and no percentiles.
        Unprocessable: the text, the positions or the densities are invalid; the message states what is valid.
        TooLarge: the text is longer than the limit.
        InferenceDown: the inference process does not answer.
    """
    if sae.index is None:
        raise NotFound(f"{sae.slug} has no published index yet, so there is nothing to rank by.")
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    check_text(text)
    check_range("A density", min_density, max_density)
    await session.commit()  # the first answer waits for the model to load: no connection is held for that long
    answer = await inference.probe(ProbeRequest(sae=SaeRef.of(sae), text=text))
    positions = _positions(answer, chosen)
    found = ranked(answer, positions)
    within = await filter_by_density(session, sae, [feature.index for feature in found], min_density, max_density)
    kept = [feature for feature in found if feature.index in within]
    return ByExample(
        tokens=await probe_tokens(session, sae, answer, text),
        chosen=positions,
        features=tuple(kept[:limit]),
        active=len(found),
        within=len(kept),
    )


def ranked(answer: ProbeAnswer, chosen: Sequence[int]) -> list[FoundFeature]:
    """Return the features active on any of the chosen positions, by mean percentile, then by number."""
    places = {position: place for place, position in enumerate(chosen)}
    features = []
    for number, own in _by_feature(answer, places):
        activations = [0.0] * len(chosen)
        percentiles = 0.0
        for place, activation, percentile in own:
            activations[place] = activation
            percentiles += percentile
        features.append(FoundFeature(number, percentiles / len(chosen), tuple(activations)))
    return sorted(features, key=lambda feature: (-feature.percentile, feature.index))


def _by_feature(answer: ProbeAnswer, places: Mapping[int, int]) -> Iterator[tuple[int, list[tuple[int, float, float]]]]:
    """Yield each feature that is active on chosen positions, with place, activation and percentile on each of them.

    Raises:
        NotFound: the inference process found no index.
    """
    if answer.percentiles is None:
        raise NotFound("This SAE has no published index any more, so there is nothing to rank by.")
    entries = zip(answer.features, answer.positions, answer.activations, answer.percentiles, strict=True)
    chosen = (entry for entry in entries if entry[1] in places)
    for number, own in groupby(chosen, key=lambda entry: entry[0]):
        yield number, [(places[position], activation, percentile) for _, position, activation, percentile in own]


def _positions(answer: ProbeAnswer, chosen: Collection[int]) -> tuple[int, ...]:
    """Return the chosen positions, or all counted ones.

    Raises:
        Unprocessable: one is outside the text, or is a token on which features are not looked for.
    """
    if not chosen:
        return tuple(position for position, counted in enumerate(answer.counted) if counted)
    for position in chosen:
        if position not in range(len(answer.counted)):
            raise Unprocessable(
                f"A token is outside the text, whose tokens are 0 to {len(answer.counted) - 1}. Choose among them."
            )
        if not answer.counted[position]:
            raise Unprocessable(
                f"Token {position} is special: features are not looked for on it. Choose tokens of the text itself."
            )
    return tuple(sorted(set(chosen)))
