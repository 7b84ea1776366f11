"""Two prompts, token by token: which features tell them apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from app.queries.saes import SaeDetail
from app.services.inference import InferenceClient
from app.services.probe import ProbeFeature, ProbeResult, probe

_ALL = 1_000_000
"""More features than an SAE has: those of one prompt are compared with all of the other's."""

_NOISE = 1e-4
"""Smaller differences are the rounding of passes of different lengths."""

Pair = tuple[int | None, int | None]
"""Positions of two tokens that stand for each other; None where one prompt has nothing there."""


@dataclass(frozen=True, slots=True)
class DiffFeature:
    """A feature on two prompts.

    `difference` is the largest between aligned tokens, as a share of the feature's maximum (`scale`); it is at `pair`
    of the alignment.
    """

    index: int
    label: str | None
    a: float
    b: float
    difference: float
    pair: int
    active_in: Literal["a", "b", "both"]
    scale: float
    activations_a: tuple[float, ...]
    activations_b: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ProbeDiff:
    """Two prompts, their alignment, and of the `differing` features those that differ most."""

    a: ProbeResult
    b: ProbeResult
    alignment: tuple[Pair, ...]
    features: tuple[DiffFeature, ...]
    differing: int


async def probe_diff(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, texts: tuple[str, str], *, top_k: int
) -> ProbeDiff:
    """Probe two texts and compare them; neither is kept nor logged. Raises as `probe`."""
    a = await probe(session, inference, sae, texts[0], top_k=_ALL)
    b = await probe(session, inference, sae, texts[1], top_k=_ALL)
    return await run_in_threadpool(diff, a, b, top_k)


def diff(a: ProbeResult, b: ProbeResult, top_k: int) -> ProbeDiff:
    """Return the features of two results, those that differ most first; equal ones last, by number."""
    alignment = align([token.id for token in a.tokens], [token.id for token in b.tokens])
    in_a, in_b = ({feature.index: feature for feature in result.features} for result in (a, b))
    silent_a, silent_b = (0.0,) * len(a.tokens), (0.0,) * len(b.tokens)
    features = [
        _compared(in_a.get(index), in_b.get(index), alignment, silent_a, silent_b)
        for index in in_a.keys() | in_b.keys()
    ]
    features.sort(key=lambda feature: (-feature.difference, feature.index))
    differing = sum(feature.difference > 0 for feature in features)
    return ProbeDiff(a, b, alignment, tuple(features[:top_k]), differing)


def align(a: Sequence[int], b: Sequence[int]) -> tuple[Pair, ...]:
    """Align two rows of token ids: equal runs first, then what stands between them in order."""
    pairs: list[Pair] = []
    for _, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        pairs += zip_longest(range(a1, a2), range(b1, b2))
    return tuple(pairs)


def _compared(
    a: ProbeFeature | None,
    b: ProbeFeature | None,
    alignment: Sequence[Pair],
    silent_a: tuple[float, ...],
    silent_b: tuple[float, ...],
) -> DiffFeature:
    present = [feature for feature in (a, b) if feature is not None]
    row_a, row_b = a.activations if a else silent_a, b.activations if b else silent_b
    differences = [abs((0.0 if i is None else row_a[i]) - (0.0 if j is None else row_b[j])) for i, j in alignment]
    pair = max(range(len(differences)), key=differences.__getitem__)
    scale = max(feature.scale for feature in present)
    return DiffFeature(
        index=present[0].index,
        label=present[0].label,
        a=a.max if a else 0.0,
        b=b.max if b else 0.0,
        difference=share if (share := differences[pair] / scale) > _NOISE else 0.0,
        pair=pair,
        active_in="both" if a and b else "a" if a else "b",
        scale=scale,
        activations_a=row_a,
        activations_b=row_b,
    )
