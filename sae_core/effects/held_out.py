"""Held-out text with the activations of all features on it, and the places where a feature is ablated."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from torch import Tensor

from sae_core.activations import ActivationCache
from sae_core.corpora import Sequences
from sae_core.errors import CorpusError
from sae_core.saes import SAE

BATCH_TOKENS = 1024
"""Tokens that are encoded at once."""


@dataclass(frozen=True)
class Window:
    """One block of consecutive positions of one sequence in which a feature is active."""

    sequence: int
    """Index among the held-out sequences that are used."""
    start: int
    """First position of the block."""
    positions: Int64[np.ndarray, " active"]
    """Where the feature is active, ascending."""
    f: Float32[np.ndarray, " active"]
    """Its activations there."""
    scaled: Float32[np.ndarray, " active"]
    """The same as factors of its decoder row in the model's own units."""

    @property
    def strongest(self) -> float:
        """The largest of its activations."""
        return float(self.f.max())


class HeldOut:
    """The first held-out sequences of a corpus, whose activations are known, and what features do on them."""

    token_ids: Int64[Tensor, "sequence position"]
    counted: Bool[np.ndarray, "sequence position"]
    activations: Float[Tensor, "sequence position d_out"]
    """At the hook point that is changed."""
    numbers: Int64[np.ndarray, " sequence"]
    """The sequences' numbers in the corpus."""

    def __init__(self, sae: SAE, cache: ActivationCache, sequences: Sequences, *, max_tokens: int) -> None:
        """Encode the counted tokens. `sae` is in its inference form.

        Raises:
            CorpusError: no counted token is held out.
        """
        held_out = np.flatnonzero(sequences.is_validation())
        upto = sequences.counted[held_out].sum(axis=1).cumsum()
        self.numbers = held_out[: int((upto < max_tokens).sum()) + 1]
        self.counted = sequences.counted[self.numbers]
        self.tokens = int(self.counted.sum())
        """Counted tokens."""
        if self.tokens == 0:
            raise CorpusError("No text is held out from training to measure effects on. Use a corpus with more text.")
        self.token_ids = torch.from_numpy(sequences.token_ids[self.numbers].astype(np.int64))
        both = cache.of_sequences(self.numbers)
        read = both[..., : sae.d_in]
        self.activations = both[..., sae.d_in :] if sae.is_transcoder else read
        self._encode(sae, read)
        self.directions = sae.W_dec.detach().float().cpu()
        self.lengths = torch.linalg.vector_norm(self.directions, dim=1).numpy()

    def _encode(self, sae: SAE, read: Float[Tensor, "sequence position d_in"]) -> None:
        places = np.flatnonzero(self.counted.ravel())
        rows = read.reshape(-1, sae.d_in)
        found: list[tuple[np.ndarray, ...]] = []
        with torch.no_grad():
            for start in range(0, len(places), BATCH_TOKENS):
                part = places[start : start + BATCH_TOKENS]
                x = rows[torch.from_numpy(part)].to(sae.W_dec.device)
                f = sae.encode(x)
                token, active = f.nonzero(as_tuple=True)
                values = f[token, active]
                scaled = sae.scale_back(values, x[token])
                arrays = (token, active, values, scaled)
                token_, feature_, values_, scaled_ = (array.cpu().numpy() for array in arrays)
                found.append((part[token_], feature_, values_, scaled_))
        place, feature, value, factor = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self._by_place = place, feature, factor
        self._place_ends = np.searchsorted(place, np.arange(self.counted.size + 1))
        order = np.argsort(feature, kind="stable")
        self._by_feature = place[order], value[order], factor[order]
        self._feature_ends = np.searchsorted(feature[order], np.arange(sae.d_sae + 1))

    def counts(self) -> Int64[np.ndarray, " d_sae"]:
        """Return on how many of the tokens each feature is active."""
        return np.diff(self._feature_ends)

    def windows(self, feature: int, length: int) -> list[Window]:
        """Return all blocks of `length` positions in which a feature is active, in order of text."""
        own = slice(self._feature_ends[feature], self._feature_ends[feature + 1])
        place, value, scaled = (array[own] for array in self._by_feature)
        sequence, position = np.divmod(place, self.counted.shape[1])
        key = np.stack([sequence, position // length], axis=1)
        if not len(key):
            return []
        cuts = np.flatnonzero((np.diff(key, axis=0) != 0).any(axis=1)) + 1
        return [
            Window(int(sequence[part[0]]), int(position[part[0]]) // length * length, *(a[part] for a in arrays))
            for part in np.split(np.arange(len(place)), cuts)
            for arrays in [(position, value, scaled)]
        ]

    def values(self, feature: int) -> Float32[np.ndarray, " active"]:
        """Return all activations of a feature that are not zero."""
        return self._by_feature[1][self._feature_ends[feature] : self._feature_ends[feature + 1]]

    def active_at(
        self, sequence: int, position: int
    ) -> tuple[Int64[np.ndarray, " active"], Int32[np.ndarray, " active"]]:
        """Return the features that are active on a token, and the lengths of the vectors that they add."""
        place = sequence * self.counted.shape[1] + position
        own = slice(self._place_ends[place], self._place_ends[place + 1])
        _, feature, scaled = (array[own] for array in self._by_place)
        return feature, scaled * self.lengths[feature]
