"""What features fire on, token by token: which token, which place, and examples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse

from sae_core.readings import Reading, Tokens, selected_tokens

WINDOW = 40
"""Tokens of an example around the strongest."""
_BEFORE = 24


@dataclass(frozen=True)
class TokenHabits:
    """Which tokens and places make a feature fire, one figure per feature; 0 and −1 for one that is never active."""

    token: Int64[np.ndarray, " d_sae"]
    """Id of the token with the largest share of the feature's activation, in its commonest spelling."""
    token_share: Float64[np.ndarray, " d_sae"]
    """Share of the feature's activation on that token, in all spellings that differ in case and white space alone."""
    first_share: Float64[np.ndarray, " d_sae"]
    last_share: Float64[np.ndarray, " d_sae"]
    """Shares of the texts with the feature on which it peaks at the first, or at the last token."""


def token_habits(reading: Reading, spelling: Int64[np.ndarray, " vocab"], tokens: Tokens = "all") -> TokenHabits:
    """Return what makes each feature fire on the texts of a reading.

    Args:
        reading: of the texts.
        spelling: as `spellings` gives it.
        tokens: that are looked at.
    """
    selected = np.flatnonzero(selected_tokens(reading, tokens))
    active = reading.features[selected].tocsc()
    active.sort_indices()
    feature = np.repeat(np.arange(reading.d_sae), np.diff(active.indptr))
    token, share = _commonest(feature, reading.token_ids[selected][active.indices], active.data, spelling, active.shape)
    first, last = _ends(feature, reading.text_of_token[selected], active)
    return TokenHabits(token, share, first, last)


def _commonest(
    feature: Int64[np.ndarray, " entry"],
    token: Int64[np.ndarray, " entry"],
    values: Float64[np.ndarray, " entry"],
    spelling: Int64[np.ndarray, " vocab"],
    shape: tuple[int, int],
) -> tuple[Int64[np.ndarray, " d_sae"], Float64[np.ndarray, " d_sae"]]:
    d_sae, vocab = shape[1], len(spelling)
    mass = values.astype(np.float64)
    total = np.bincount(feature, weights=mass, minlength=d_sae)
    ids, place = np.unique(feature * vocab + token, return_inverse=True)
    of_id = np.bincount(place, weights=mass)
    key = ids // vocab * vocab + spelling[ids % vocab]
    keys, group = np.unique(key, return_inverse=True)
    of_key = np.bincount(group, weights=of_id)
    best = np.full(d_sae, -1, np.int64)
    share = np.zeros(d_sae)
    order = np.argsort(of_key, kind="stable")
    best[keys[order] // vocab] = order  # of several that are assigned to one feature, the last and largest stays
    alive = best >= 0
    share[alive] = of_key[best[alive]] / total[alive]
    commonest = np.full(d_sae, -1, np.int64)
    is_best = best[ids // vocab] == group
    order = np.flatnonzero(is_best)[np.argsort(of_id[is_best], kind="stable")]
    commonest[ids[order] // vocab] = ids[order] % vocab
    return commonest, share


def _ends(
    feature: Int64[np.ndarray, " entry"], text_of: Int64[np.ndarray, " token"], active: sparse.csc_array
) -> tuple[Float64[np.ndarray, " d_sae"], Float64[np.ndarray, " d_sae"]]:
    d_sae = active.shape[1]
    is_first = np.r_[True, text_of[1:] != text_of[:-1]][: len(text_of)]
    is_last = np.r_[text_of[1:] != text_of[:-1], True][: len(text_of)]
    text = text_of[active.indices]
    order = np.lexsort((-active.data, text, feature))
    starts = np.r_[True, (feature[order][1:] != feature[order][:-1]) | (text[order][1:] != text[order][:-1])]
    peaks = order[starts[: len(order)]]
    texts = np.maximum(np.bincount(feature[peaks], minlength=d_sae), 1)
    first, last = (
        np.bincount(feature[peaks], weights=end[active.indices[peaks]], minlength=d_sae) / texts
        for end in (is_first, is_last)
    )
    return first, last


@dataclass(frozen=True)
class Example:
    """Tokens of one text around the strongest activation of a feature."""

    side: str
    text: int
    """Number of the text in the reading."""
    start: int
    """Number of the first token among the text's counted ones."""
    tokens: list[int]
    values: list[float]
    """The feature's activation on each token."""
    peak: int
    """Place of the strongest among `tokens`."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**vars(self), "values": [round(value, 4) for value in self.values]}


def pick_examples(
    reading: Reading,
    pooled: sparse.csc_array,
    is_a: Bool[np.ndarray, " text"],
    feature: int,
    *,
    per_side: int = 4,
    tokens: Tokens = "all",
) -> list[Example]:
    """Return texts of each side on which a feature is active: the strongest, and the median one last.

    Args:
        reading: of both sides.
        pooled: its pooled features.
        is_a: True for texts of a.
        feature: its number.
        per_side: most examples of a side.
        tokens: that were pooled; the window is around the strongest of them.
    """
    own = slice(pooled.indptr[feature], pooled.indptr[feature + 1])
    texts, values = pooled.indices[own], pooled.data[own]
    selected = selected_tokens(reading, tokens)
    found = []
    for side, of_side in (("a", is_a[texts]), ("b", ~is_a[texts])):
        ranked = texts[of_side][np.argsort(-values[of_side], kind="stable")]
        chosen = ranked[: per_side - 1].tolist()
        if len(ranked) >= per_side:
            chosen.append(int(ranked[max(len(ranked) // 2, per_side - 1)]))
        found += [_example(reading, selected, side, text, feature) for text in chosen]
    return found


def _example(reading: Reading, selected: Bool[np.ndarray, " token"], side: str, text: int, feature: int) -> Example:
    begin, end = int(reading.offsets[text]), int(reading.offsets[text + 1])
    values = reading.features[begin:end, [feature]].toarray()[:, 0]
    peak = int(np.argmax(np.where(selected[begin:end], values, -1.0)))
    start = max(0, min(peak - _BEFORE, end - begin - WINDOW))
    window = slice(start, min(start + WINDOW, end - begin))
    return Example(
        side=side,
        text=text,
        start=start,
        tokens=reading.token_ids[begin:end][window].tolist(),
        values=values[window].tolist(),
        peak=peak - start,
    )
