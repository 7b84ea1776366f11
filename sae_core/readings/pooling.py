"""From tokens to texts: which tokens count, and how their values become one."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy import sparse

from sae_core.readings.reading import Part, Reading

Tokens = Literal["all", "user", "assistant", "last"]
"""`all`: what somebody wrote, without the words of a chat's template. `last`: the last token, template or not, from
which the model would continue."""
Pool = Literal["max", "mean", "top", "ema"]
"""`top`: mean of the largest `TOP`. `ema`: largest value of the exponential moving average."""

TOP = 5
HALF_LIFE = 8
"""Tokens after which a value counts half in the moving average."""
_DECAY = 0.5 ** (1 / HALF_LIFE)


def selected_tokens(reading: Reading, tokens: Tokens) -> Bool[np.ndarray, " tokens"]:
    """Return True for the tokens that are pooled."""
    selected = np.zeros(reading.tokens, bool)
    match tokens:
        case "all":
            selected |= reading.parts != Part.TEMPLATE
        case "user":
            selected |= reading.parts == Part.USER
        case "assistant":
            selected |= reading.parts == Part.ASSISTANT
        case "last":
            selected[reading.offsets[1:][reading.lengths > 0] - 1] = True
    return selected


def count_tokens(reading: Reading, tokens: Tokens) -> Int64[np.ndarray, " texts"]:
    """Return how many tokens of each text are pooled."""
    counts: Int64[np.ndarray, " texts"] = np.bincount(
        reading.text_of_token[selected_tokens(reading, tokens)], minlength=reading.texts
    )
    return counts


def pool_features(reading: Reading, pool: Pool, tokens: Tokens = "all") -> sparse.csr_array:
    """Return the pooled activation of every feature on every text, float32 `[texts, d_sae]`.

    A text without such tokens has none. Tokens on which a feature is not active count as 0.
    """
    selected = np.flatnonzero(selected_tokens(reading, tokens))
    text_of = reading.text_of_token[selected]
    counts = np.bincount(text_of, minlength=reading.texts)
    place = np.arange(len(selected)) - (np.cumsum(counts) - counts)[text_of]  # within its text
    by_feature = reading.features[selected].tocsc()  # counting sort: by feature, then by token
    by_feature.sort_indices()
    texts, values = text_of[by_feature.indices], by_feature.data.astype(np.float64)
    feature = np.repeat(np.arange(reading.d_sae), np.diff(by_feature.indptr))
    starts = _starts(feature, texts)
    if not len(starts):
        return sparse.csr_array((reading.texts, reading.d_sae), dtype=np.float32)
    pooled = _pool(pool, values, starts, place[by_feature.indices], counts[texts[starts]])
    matrix = sparse.coo_array(
        (pooled.astype(np.float32), (texts[starts], feature[starts])), shape=(reading.texts, reading.d_sae)
    )
    return sparse.csr_array(matrix)


def pool_scores(
    scores: Float[np.ndarray, " tokens"], reading: Reading, pool: Pool, tokens: Tokens = "all"
) -> Float[np.ndarray, " texts"]:
    """Return the pooled score of every text, by the same arithmetic; NaN for a text without such tokens."""
    selected = np.flatnonzero(selected_tokens(reading, tokens))
    text_of = reading.text_of_token[selected]
    counts = np.bincount(text_of, minlength=reading.texts)
    pooled = np.full(reading.texts, np.nan)
    if len(selected):
        present = np.flatnonzero(counts)
        starts = (np.cumsum(counts) - counts)[present]
        place = np.arange(len(selected)) - np.repeat(starts, counts[present])
        values = np.asarray(scores, np.float64)[selected]
        pooled[present] = _pool(pool, values, starts, place, counts[present])
    return pooled


def _starts(feature: Int64[np.ndarray, " entry"], text: Int64[np.ndarray, " entry"]) -> Int64[np.ndarray, " run"]:
    """Return where runs of one feature in one text begin."""
    changed = np.ones(len(text), bool)
    changed[1:] = (feature[1:] != feature[:-1]) | (text[1:] != text[:-1])
    return np.flatnonzero(changed)


def _pool(
    pool: Pool,
    values: Float[np.ndarray, " entry"],
    starts: Int64[np.ndarray, " run"],
    place: Int64[np.ndarray, " entry"],
    counts: Int64[np.ndarray, " run"],
) -> Float[np.ndarray, " run"]:
    """Pool each run of entries. Tokens between entries are 0, as are those of a run's text that have none.

    Args:
        pool: how.
        values: entries, by run and then by token.
        starts: first entry of each run.
        place: of each entry's token among the pooled ones of its text.
        counts: pooled tokens of each run's text.
    """
    pooled: Float[np.ndarray, " run"]
    match pool:
        case "max":
            pooled = np.maximum.reduceat(values, starts)
        case "mean":
            pooled = np.add.reduceat(values, starts) / counts
        case "top":
            pooled = _top(values, starts, counts)
        case "ema":
            pooled = _moving(values, starts, place)
    return pooled


def _top(
    values: Float[np.ndarray, " entry"], starts: Int64[np.ndarray, " run"], counts: Int64[np.ndarray, " run"]
) -> Float[np.ndarray, " run"]:
    """Return the mean of the `TOP` largest values of each run, of all where a text has fewer tokens."""
    sizes = np.diff(np.append(starts, len(values)))
    run = np.repeat(np.arange(len(starts)), sizes)
    order = np.lexsort((-values, run))
    rank = np.arange(len(values)) - np.repeat(starts, sizes)
    largest = np.where(rank < TOP, values[order], 0.0)
    means: Float[np.ndarray, " run"] = np.add.reduceat(largest, starts) / np.minimum(counts, TOP)
    return means


def _moving(
    values: Float[np.ndarray, " entry"], starts: Int64[np.ndarray, " run"], place: Int64[np.ndarray, " entry"]
) -> Float[np.ndarray, " run"]:
    """Return the largest exponentially weighted mean `Σ d^(t-s) x_s / Σ d^(t-s)` over the tokens `t` of each run.

    Weights are those of pandas' `ewm(halflife=8)`. A shift of all values shifts it as much, so a probe's bias does not
    matter. At a token that is 0 it only falls, so the entries alone are looked at.
    """
    sizes = np.diff(np.append(starts, len(values)))
    best = np.full(len(starts), -np.inf)
    total = np.zeros(len(starts))
    before = np.zeros(len(starts), np.int64)
    for step in range(int(sizes.max(initial=0))):
        runs = np.flatnonzero(sizes > step)
        entry = starts[runs] + step
        here = place[entry]
        total[runs] = total[runs] * _DECAY ** (here - before[runs]) + values[entry]
        before[runs] = here
        weight = (1 - _DECAY ** (here + 1)) / (1 - _DECAY)
        best[runs] = np.maximum(best[runs], total[runs] / weight)
    return best
