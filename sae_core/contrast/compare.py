"""Compare two sides of texts, feature by feature."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse
from scipy.stats import false_discovery_control

from sae_core.contrast.baselines import LEAST_TEXTS, Baseline, Word, compare_classifiers, compare_words
from sae_core.contrast.figures import Rates, cohens_d, compare_rates
from sae_core.contrast.ranks import Separation, separate, separate_scores, separate_within
from sae_core.contrast.tokens import TokenHabits, pick_examples, token_habits
from sae_core.models.vocabulary import spellings
from sae_core.progress import Progress, silent
from sae_core.readings import Pool, Reading, Tokens, count_tokens, pool_features

LEAST_HELD_OUT = 10
"""Texts of each side that are held out, or else nothing is."""
MOST_STRATA = 10
EXAMPLES = 60
"""Features of each direction whose examples are kept, the strongest first."""
_STEPS = 6


@dataclass(frozen=True)
class Length:
    """How well the number of tokens alone tells the sides apart, on all texts that choose."""

    auroc: float
    interval: tuple[float, float]
    p: float
    median_a: float
    median_b: float
    overlap: float
    """Share of the two distributions over strata of length that is common: 1 where they are equal."""


@dataclass(frozen=True)
class Contrast:
    """What distinguishes the texts of two sides; figures per feature are of the features in `features`.

    All figures are of the texts that choose, but for `test` and `classifiers`.
    """

    features: Int64[np.ndarray, " tested"]
    """Features that are active on at least `LEAST_TEXTS` texts."""
    chosen: Separation
    q: Float64[np.ndarray, " tested"]
    rates: Rates
    d: Float64[np.ndarray, " tested"]
    matched: Float64[np.ndarray, " tested"] | None
    """AUROC among texts of about one length; None where lengths do not overlap."""
    test: Separation | None
    """On the texts held out; None where there are too few."""
    habits: TokenHabits
    length: Length
    words: list[Word]
    words_tested: int
    words_differ: int
    classifiers: list[Baseline]
    examples: dict[int, list[dict[str, Any]]]

    def strength(self) -> Float64[np.ndarray, " tested"]:
        """Return the distance of each feature's AUROC from one half."""
        distance: Float64[np.ndarray, " tested"] = np.abs(self.chosen.auroc - 0.5)
        return distance


def compare_texts(
    reading: Reading,
    texts: Sequence[str],
    is_a: Bool[np.ndarray, " text"],
    held_out: Bool[np.ndarray, " text"],
    token_bytes: Sequence[bytes],
    *,
    pool: Pool = "max",
    tokens: Tokens = "all",
    progress: Progress = silent,
) -> Contrast:
    """Rank features, words and classifiers by how well they tell the texts of a from the others.

    Features and words are ranked on the texts that are not held out, and shown beside their AUROC on those that are.
    Where fewer than `LEAST_HELD_OUT` of a side are held out, all texts choose.

    Args:
        reading: of all texts.
        texts: their words.
        is_a: True for those of a.
        held_out: True for those that do not choose.
        token_bytes: of the model's vocabulary.
        pool: from tokens to texts.
        tokens: that are pooled.
        progress: in steps.
    """
    if min((is_a & held_out).sum(), (~is_a & held_out).sum()) < LEAST_HELD_OUT:
        held_out = np.zeros(len(is_a), bool)
    choosing = ~held_out

    def step(number: int) -> None:
        progress(number, _STEPS)

    step(0)
    pooled = pool_features(reading, pool, tokens)
    x = sparse.csc_array(pooled[choosing])
    tested = np.flatnonzero(np.diff(x.indptr) >= LEAST_TEXTS)
    x = x[:, tested]
    chosen = separate(x, is_a[choosing])
    q = false_discovery_control(chosen.p) if len(tested) else np.zeros(0)
    step(1)
    test = separate(sparse.csc_array(pooled[held_out][:, tested]), is_a[held_out]) if held_out.any() else None
    lengths = count_tokens(reading, tokens)
    length, stratum = _length(lengths[choosing], is_a[choosing])
    matched = separate_within(x, is_a[choosing], stratum)
    step(2)
    habits = token_habits(reading, spellings(token_bytes), tokens)
    step(3)
    words, words_tested, words_differ = compare_words(texts, is_a, held_out)
    step(4)
    ranked = np.argsort(-np.abs(chosen.auroc - 0.5), kind="stable")
    classifiers: list[Baseline] = []
    if held_out.any() and len(tested):
        best = int(tested[ranked[0]])
        classifiers = compare_classifiers(texts, pooled, reading.residual, lengths, best, is_a, held_out)
    step(5)
    by_feature = sparse.csc_array(pooled)
    shown = [
        feature
        for higher in (True, False)
        for feature in tested[[row for row in ranked if (chosen.auroc[row] >= 0.5) == higher][:EXAMPLES]].tolist()
    ]
    examples = {
        feature: [example.as_json() for example in pick_examples(reading, by_feature, is_a, feature, tokens=tokens)]
        for feature in shown
    }
    step(6)
    return Contrast(
        features=tested,
        chosen=chosen,
        q=q,
        rates=compare_rates(chosen.active_a, chosen.active_b, chosen.n_a, chosen.n_b),
        d=cohens_d(x, is_a[choosing]),
        matched=matched,
        test=test,
        habits=TokenHabits(**{name: values[tested] for name, values in asdict(habits).items()}),
        length=length,
        words=words,
        words_tested=words_tested,
        words_differ=words_differ,
        classifiers=classifiers,
        examples=examples,
    )


def _length(
    lengths: Int64[np.ndarray, " text"], is_a: Bool[np.ndarray, " text"]
) -> tuple[Length, Int64[np.ndarray, " text"]]:
    """Compare lengths, and put the texts into at most `MOST_STRATA` strata of equal size by length."""
    own = separate_scores(lengths.astype(np.float64), is_a)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, MOST_STRATA + 1)[1:-1]))
    stratum = np.searchsorted(edges, lengths)
    shares = [np.bincount(stratum[side], minlength=MOST_STRATA) / side.sum() for side in (is_a, ~is_a)]
    return (
        Length(
            auroc=float(own.auroc[0]),
            interval=(float(own.low[0]), float(own.high[0])),
            p=float(own.p[0]),
            median_a=float(np.median(lengths[is_a])),
            median_b=float(np.median(lengths[~is_a])),
            overlap=float(np.minimum(*shares).sum()),
        ),
        stratum,
    )
