"""A comparison of two made-up SAEs on one corpus, computed the plain way and published through the real query."""

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.pipeline.comparison import summary_of
from app.pipeline.db_rows import match_rows
from app.queries.comparisons import publish_comparison
from sae_core.matching import THRESHOLDS, Counterparts, Partners
from tests.factories import Synthetic, make_sae
from tests.synthetic import Features

CHANCE = np.full(20, 0.4, np.float32)
"""Cosines to a random dictionary."""
NARROW, WIDE = "tiny-l1-batchtopk-24", "tiny-l1-batchtopk-60"


async def make_pair(engine: AsyncEngine, *, activity: bool = True) -> tuple[Synthetic, Synthetic]:
    """A narrow SAE and a wide one that splits some of its features, and their comparison."""
    narrow = await make_sae(engine, slug=NARROW, features=24, sequences=80)
    wide = await make_sae(engine, slug=WIDE, features=60, sequences=80)
    await compare(engine, narrow, wide, activity=activity)
    return narrow, wide


async def compare(engine: AsyncEngine, first: Synthetic, second: Synthetic, *, activity: bool = True) -> None:
    a, b = sorted((first, second), key=lambda each: each.sae.id)
    of_a, of_b = _sides(a.features, b.features) if activity else _directions(a.features, b.features)
    tokens = a.features.tokens if activity else 0
    index = a.sae.index
    async with transaction(create_sessionmaker(engine)) as session:
        await publish_comparison(
            session,
            a=a.sae,
            b=b.sae,
            sequence_set_id=index.sequence_set.id if index and activity else None,
            tokens=tokens,
            provenance={"thresholds": THRESHOLDS},
            summary={side: summary_of(own, tokens, CHANCE) for side, own in (("a", of_a), ("b", of_b))},
            rows=[match_rows(of_a), match_rows(of_b)],
        )


def _sides(a: Features, b: Features) -> tuple[Counterparts, Counterparts]:
    f, g = (each.activations.reshape(len(each.weights), -1)[:, each.corpus.counted.reshape(-1)] for each in (a, b))
    joint = (f > 0).astype(int) @ (g > 0).T.astype(int)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(f, g)[: len(f), len(f) :])
    cosine = _cosine(a, b)
    of_a, of_b = _partners(f, g, joint, correlation, cosine), _partners(g, f, joint.T, correlation.T, cosine.T)
    return _counterparts(f, g, of_a, of_b), _counterparts(g, f, of_b, of_a)


def _directions(a: Features, b: Features) -> tuple[Counterparts, Counterparts]:
    cosine = _cosine(a, b)
    zero = np.zeros_like(cosine)
    none = np.zeros((len(cosine), 0)), np.zeros((cosine.shape[1], 0))
    sides = []
    for at, (f, g) in zip((cosine, cosine.T), (none, none[::-1]), strict=True):
        zero = np.zeros_like(at)
        sides.append(_partners(f, g, zero.astype(int), zero, at))
    return _counterparts(none[0], none[1], *sides), _counterparts(none[1], none[0], *sides[::-1])


def _cosine(a: Features, b: Features) -> np.ndarray:
    units = [each.weights / np.maximum(np.linalg.norm(each.weights, axis=1, keepdims=True), 1e-9) for each in (a, b)]
    return units[0] @ units[1].T


def _partners(
    f: np.ndarray, g: np.ndarray, joint: np.ndarray, correlation: np.ndarray, cosine: np.ndarray
) -> tuple[Partners, ...]:
    """The nearest, the most correlated and the parent of each feature of `f` among those of `g`."""
    count, others = (f > 0).sum(axis=1)[:, None], (g > 0).sum(axis=1)[None, :]
    part = (count >= 10) & (others > count) & (others <= 0.1 * f.shape[1]) & (joint >= count / 2) & (cosine >= 0.3)
    scores = (
        cosine,
        np.where((joint >= 5) & (correlation > 0), correlation, -np.inf),
        np.where(part, cosine, -np.inf),
    )
    found = []
    for score in scores:
        best, row = score.argmax(axis=1), np.arange(len(score))
        there = np.isfinite(score[row, best])
        values = (np.where(there, table[row, best], 0) for table in (cosine, correlation, joint))
        found.append(Partners(np.where(there, best, -1).astype(np.int32), *values))
    return tuple(found)


def _counterparts(
    f: np.ndarray, g: np.ndarray, own: tuple[Partners, ...], others: tuple[Partners, ...]
) -> Counterparts:
    def matched(which: int, value: np.ndarray) -> np.ndarray:
        ids = own[which].ids
        return (ids >= 0) & (others[which].ids[ids] == np.arange(len(ids))) & (value >= 0.5)

    whose = others[2].ids
    covered = [int(((f[i] > 0) & (g[whose == i] > 0).any(axis=0)).sum()) for i in range(len(f))]
    return Counterparts(
        count=(f > 0).sum(axis=1),
        near=own[0],
        coactive=own[1],
        parent=own[2],
        near_matched=matched(0, own[0].cosine),
        coactive_matched=matched(1, own[1].correlation),
        parts=np.bincount(whose[whose >= 0], minlength=len(f)),
        covered=np.array(covered),
    )
