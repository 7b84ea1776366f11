"""Pooling of a text that grows: the pooled value after each token, which after the last is that of the whole text."""

import numpy as np
import scipy  # its parts are imported when they are first used
from jaxtyping import Float

from sae_core.readings import Pool
from sae_core.readings.pooling import HALF_LIFE, TOP

_DECAY = 0.5 ** (1 / HALF_LIFE)


class RunningPool:
    """The channels of one text, pooled over the tokens so far."""

    def __init__(self, pool: Pool, channels: int, *, only_last: bool = False) -> None:
        """Begin a text.

        Args:
            pool: how.
            channels: values per token.
            only_last: True if the last token alone counts, so that each token replaces the one before.
        """
        self._pool = pool
        self._only_last = only_last
        self._count = 0
        self._sum = np.zeros(channels)
        self._largest = np.full((TOP, channels) if pool == "top" else channels, -np.inf)

    @property
    def count(self) -> int:
        """Tokens so far."""
        return self._count

    def extend(self, values: Float[np.ndarray, "token channel"]) -> Float[np.ndarray, "token channel"]:
        """Take tokens, and return the pooled channels after each of them."""
        rows = np.asarray(values, np.float64)
        if not len(rows):
            return rows
        counts = self._count + 1 + np.arange(len(rows))[:, None]
        self._count += len(rows)
        if self._only_last:
            return rows
        match self._pool:
            case "max":
                return self._running_max(rows)
            case "mean":
                sums = self._sum + np.cumsum(rows, axis=0)
                self._sum = sums[-1]
                return sums / counts
            case "ema":
                sums, _ = scipy.signal.lfilter([1.0], [1.0, -_DECAY], rows, axis=0, zi=_DECAY * self._sum[None])
                self._sum = sums[-1]
                return self._running_max(sums / ((1 - _DECAY**counts) / (1 - _DECAY)))
            case "top":
                return np.stack(
                    [self._mean_of_largest(row, int(count)) for row, (count,) in zip(rows, counts, strict=True)]
                )

    def _running_max(self, rows: Float[np.ndarray, "token channel"]) -> Float[np.ndarray, "token channel"]:
        running: Float[np.ndarray, "token channel"] = np.maximum.accumulate(np.vstack([self._largest, rows]))[1:]
        self._largest = running[-1]
        return running

    def _mean_of_largest(self, row: Float[np.ndarray, " channel"], count: int) -> Float[np.ndarray, " channel"]:
        """Take one token; `_largest` is ascending along its first axis."""
        self._largest[0] = np.maximum(self._largest[0], row)
        self._largest.sort(axis=0)
        mean: Float[np.ndarray, " channel"] = self._largest[-min(count, TOP) :].mean(axis=0)
        return mean
