"""Feature absorption: words on which a first-letter feature is silent, because features of the words took its part.

Chanin et al. 2024 (arXiv:2409.14507) found it; the measure is that of SAEBench (Karvonen et al. 2025, arXiv:2503.09532;
sae-bench 0.6.0, `feature_absorption_calculator.py` and `k_sparse_probing.py` in `evals/absorption`), which needs no
ablation. The tests hold the fraction of a word and the features of a letter to its code. What differs, besides which
words are asked (`spelling.py`):

- Features are ranked by the difference of means, not by the weights of a probe with an L1 penalty.
- The letters' directions are those of one logistic regression over all letters, on standardised activations, not those
  of a probe per letter; a word counts where its letter is the likeliest, not where its letter's score is above 0.
- A letter needs `LEAST_WORDS` test words, not a probe with an F1 above 0.6; `LEAST_LETTERS` of them do, not 20.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sae_core.probing.compare import Figure
from sae_core.probing.probes import Task, score_columns

MOST_FEATURES = 10
"""Features of one letter, at most."""
SPLIT_JUMP = 0.03
"""A further feature is one of the letter's if it raises F1 by more than this."""
LEAST_COSINE = 0.1
"""Of an absorbing feature's direction and the letter's."""
MOST_ABSORBING = 3
"""Features that absorb together, at most."""
LEAST_SHARE = 0.4
"""Share of the letter's projection that absorbing features make up, at least."""
LEAST_WORDS = 5
"""Words of a letter to test, at least; a letter with fewer is left out."""
LEAST_LETTERS = 3
TEST_SHARE = 0.3
_REPLICATES = 2000


@dataclass(frozen=True)
class Letter:
    """The features of one letter, and what was absorbed on each of its test words."""

    letter: str
    features: Int64[np.ndarray, " feature"]
    f1: float
    """Of the probe on these features, which tells the letter's test words from those of all other letters."""
    absorbed: Float[np.ndarray, " word"]
    """Absorption fraction of each test word whose letter the plain activations tell."""


@dataclass(frozen=True)
class Absorption:
    """Means over letters, with 95 % intervals from a bootstrap over the test words of each letter."""

    fraction: Figure
    """Share of the letter that absorbing features carry, from 0 to 1."""
    f1: float
    """How well the features of a letter tell it: where they do not, there is nothing to absorb."""
    features: float
    """Features per letter."""
    letters: int
    words: int
    """Test words behind the fraction."""
    told: float
    """Share of all test words whose letter a linear probe on the plain activations tells."""


def absorption_fraction(
    f: Float[np.ndarray, "word d_sae"],
    x: Float[np.ndarray, "word d_in"],
    W_dec: Float[np.ndarray, "d_sae d_in"],
    direction: Float[np.ndarray, " d_in"],
    features: Int64[np.ndarray, " feature"],
) -> Float[np.ndarray, " word"]:
    """Return the share of a letter's projection that features other than the letter's own carry, per word.

    With p the unit direction of the letter, q_i = f_i · (W_dec,i · p), P = x · p, and M the sum of q over the letter's
    features: A is the sum of the `MOST_ABSORBING` largest q > 0 of other features whose cos(W_dec,i, p) is at least
    `LEAST_COSINE`. The fraction is 0 where M ≥ P or A / P < `LEAST_SHARE`; else 1 where M ≤ 0; else B / (B + M), with
    B = min(A, P − M).
    For decoder rows of length 1 that is sae-bench's, which multiplies f by the cosine.
    """
    p = direction / np.linalg.norm(direction)
    along = W_dec @ p
    cosine = along / np.maximum(np.linalg.norm(W_dec, axis=1), 1e-12)
    q = f * along
    own = q[:, features].sum(axis=1)
    absorbing = cosine >= LEAST_COSINE
    absorbing[features] = False
    others = np.where(absorbing, np.maximum(q, 0), 0)
    kept = min(MOST_ABSORBING, others.shape[1])
    taken = np.partition(others, others.shape[1] - kept, axis=1)[:, -kept:].sum(axis=1)
    whole = x @ p
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum(taken, whole - own)
        fraction = np.where(own <= 0, 1.0, share / (share + own))
        none = (own >= whole) | (taken / whole < LEAST_SHARE) | (whole <= 0)
    return np.where(none, 0.0, np.clip(fraction, 0, 1))


def letter_features(
    f: Float[np.ndarray, "word d_sae"], is_letter: Bool[np.ndarray, " word"], held_out: Bool[np.ndarray, " word"]
) -> tuple[Int64[np.ndarray, " feature"], float]:
    """Return the features of a letter, and the F1 of a probe on them.

    They come in the order of their mean on the letter's words − that on all others: those that are silent on the letter
    come last. The first is taken, and a further one while it raises F1 on the words held out by
    more than `SPLIT_JUMP`, as sae-bench finds the features that a letter is split into.
    """
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    task = Task("", train, is_letter[train], test, is_letter[test])
    own = is_letter & ~held_out
    others = ~is_letter & ~held_out
    difference = (own / own.sum() - others / others.sum()).astype(f.dtype) @ f
    order = np.argsort(-difference, kind="stable")[:MOST_FEATURES]
    best, k = _f1(f, task, order[:1]), 1
    while k < len(order) and (following := _f1(f, task, order[: k + 1])) > best + SPLIT_JUMP:
        best, k = following, k + 1
    return order[:k], best


def _f1(f: Float[np.ndarray, "word d_sae"], task: Task, features: Int64[np.ndarray, " feature"]) -> float:
    return float(f1_score(task.is_test, score_columns(f, task, features) > 0, zero_division=0.0))


def measure_absorption(
    x: Float32[np.ndarray, "word d_in"],
    f: Float[np.ndarray, "word d_sae"],
    W_dec: Float[np.ndarray, "d_sae d_in"],
    letters: Sequence[str],
    *,
    seed: int = 0,
) -> Absorption | None:
    """Return how much of the first letters of words is absorbed; None where no letter has enough words.

    Args:
        x: activations at the words, which the SAE reads and rebuilds.
        f: features' activations there, in the form for inference.
        W_dec: decoder, in the units of `x`.
        letters: of the words.
        seed: of the split into training and test words, and of the bootstrap.
    """
    held_out = np.random.default_rng(seed).random(len(letters)) < TEST_SHARE
    of = np.array(letters)
    kept = [one for one in sorted(set(letters)) if min(_counts(of == one, held_out)) >= LEAST_WORDS]
    if len(kept) < LEAST_LETTERS:
        return None
    usable = np.isin(of, kept)
    x, f, of, held_out = x[usable], f[usable], of[usable], held_out[usable]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x[~held_out], of[~held_out])
    told = probe.predict(x) == of
    directions = _directions(probe, kept)
    found = []
    for letter in kept:
        is_letter = of == letter
        features, f1 = letter_features(f, is_letter, held_out)
        words = held_out & told & is_letter
        absorbed = absorption_fraction(f[words], x[words], W_dec, directions[letter], features)
        found.append(Letter(letter, features, f1, absorbed))
    found = [one for one in found if len(one.absorbed)]
    return _summary(found, float(told[held_out].mean()), seed) if found else None


def _counts(is_letter: Bool[np.ndarray, " word"], held_out: Bool[np.ndarray, " word"]) -> tuple[int, int]:
    return int((is_letter & held_out).sum()), int((is_letter & ~held_out).sum())


def _directions(probe: Pipeline, letters: Sequence[str]) -> dict[str, Float[np.ndarray, " d_in"]]:
    """Return each letter's direction among the activations as they are: the weights over the standard deviations."""
    scaler, regression = (step for _, step in probe.steps)
    return dict(zip(letters, regression.coef_ / scaler.scale_, strict=True))


def _summary(letters: Sequence[Letter], told: float, seed: int) -> Absorption:
    random = np.random.default_rng(seed)
    drawn = [random.choice(one.absorbed, (_REPLICATES, len(one.absorbed))).mean(axis=1) for one in letters]
    low, high = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975))
    return Absorption(
        fraction=Figure(float(np.mean([one.absorbed.mean() for one in letters])), float(low), float(high)),
        f1=float(np.mean([one.f1 for one in letters])),
        features=float(np.mean([len(one.features) for one in letters])),
        letters=len(letters),
        words=sum(len(one.absorbed) for one in letters),
        told=told,
    )
