"""Bootstrap intervals (Efron 1979) over a stream: how far a metric would move with other text or other features.

A metric is computed once from the whole sample and once from each of many replicates of it. The 2.5 and 97.5
percentiles of the replicates' values are its 95 % interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

REPLICATES = 200
"""Another seed moves the ends of an interval by about a twentieth of its width."""
PERCENTILES = (0.025, 0.975)


@dataclass
class ResampledSums:
    """Sums over tokens, in float64: first those of the sample, then those of each replicate.

    The bootstrap draws whole sequences, because the tokens of a sequence resemble each other: were tokens drawn one by
    one, intervals would be too narrow. How often a replicate holds a sequence is a Poisson number of mean 1, which
    unlike a draw of a fixed number of sequences needs no more than one pass (Chamandy et al. 2012, "Estimating
    Uncertainty for Massive Data Streams"). It depends on the seed and the sequence's number alone, and so not on how
    the tokens are batched.
    """

    seed: int
    sequences: int = 0
    """Sequences that tokens came from."""
    totals: dict[str, Float64[Tensor, "1+replicate *width"]] = field(default_factory=dict)
    """By quantity; "tokens" counts them."""
    _last: int = -1

    def add(self, sequence: Int64[Tensor, " token"], **values: Shaped[Tensor, "token *width"]) -> None:
        """Add some tokens.

        Args:
            sequence: the number of each token's sequence. A sequence's tokens come one after the other, but may be cut
                between calls.
            values: by quantity.
        """
        if not len(sequence):
            return
        numbers, row = torch.unique_consecutive(sequence, return_inverse=True)
        drawn = numbers.tolist()
        self.sequences += len(drawn) - (drawn[0] == self._last)
        self._last = drawn[-1]
        weights = poisson_weights(self.seed, drawn).to(sequence.device)
        for name, value in {"tokens": torch.ones_like(row), **values}.items():
            by_sequence = torch.zeros((len(drawn), *value.shape[1:]), dtype=torch.float64, device=value.device)
            by_sequence.index_add_(0, row, value.double())
            self.totals[name] = self.totals.get(name, 0) + weights @ by_sequence

    @property
    def tokens(self) -> int:
        """Tokens of the sample."""
        return int(self.totals["tokens"][0]) if self.totals else 0

    def mean(self, name: str) -> Float64[Tensor, "1+replicate *width"]:
        """Return the mean of a quantity over tokens; NaN in a replicate without tokens."""
        total = self.totals[name]
        return total / self.totals["tokens"].reshape(-1, *[1] * (total.ndim - 1))

    def interval(self, values: Float64[Tensor, "1+replicate"]) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric of these sums, for as many other sequences of that corpus.

        With few sequences it is too narrow: in simulations that of 10 held the truth in 80 to 90 %, that of 100 in 91
        to 94 %. It is None for a single sequence, or if a replicate's value is not a number. Replicates that
        happen to hold no token are left out.
        """
        return None if self.sequences < 2 else interval(values[1:][self.totals["tokens"][1:] > 0])


def poisson_weights(seed: int, sequences: Sequence[int]) -> Float64[Tensor, "1+replicate sequence"]:
    """Return how often the sample (once) and each replicate hold each of these sequences."""
    drawn = [np.random.default_rng((seed, number)).poisson(1, REPLICATES) for number in sequences]
    return torch.from_numpy(np.stack([np.append(1.0, times) for times in drawn], axis=1))


def resample_features(values: Shaped[np.ndarray, " d_sae"], seed: int) -> Float64[Tensor, "1+replicate"]:
    """Return the sum over all features, and for each replicate over as many, drawn from them with replacement.

    The interval of such a sum shows how much it depends on the features that a training happened to find: its range for
    other dictionaries of this size whose features are of the same kinds, independent of each other. The tokens are
    fixed. A kind without any feature is never drawn: its interval is 0 to 0.
    """
    random = np.random.default_rng(seed)
    values = values.astype(np.float64)
    drawn = [values[random.integers(len(values), size=len(values))].sum() for _ in range(REPLICATES)]
    return torch.tensor([values.sum(), *drawn], dtype=torch.float64)


def interval(replicates: Float[Tensor, " replicate"]) -> tuple[float, float] | None:
    """Return the 2.5 and 97.5 percentiles; None if a value is not finite, or there is none."""
    if not len(replicates) or not replicates.isfinite().all():
        return None
    low, high = torch.quantile(replicates, replicates.new_tensor(PERCENTILES)).tolist()
    return low, high
