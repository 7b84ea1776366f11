"""A monitor: one score per text from a model's activations, and the threshold above which it alerts.

At its hook point each token has channels: the activations of some features, the projection on a direction, or the raw
activations themselves. Each channel is pooled over the tokens that the monitor watches, and

    score = pooled · weights + bias        alert if score > threshold

so a score is a function of running values, and a text that grows token by token has one after each token.

A monitor holds the encoder rows of its features, so it outlives its SAE. Most architectures decide for each feature
alone, and these rows give the SAE's own activations (`exact`). A TopK makes its features compete for k places: there
the monitor's feature is `decoupled`, its pre-activation where that is above a threshold, as BatchTopK defines it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.errors import MonitorError
from sae_core.interventions.narrow import narrowed
from sae_core.models import HookPoint
from sae_core.readings import Pool, Tokens
from sae_core.saes import SAE, JumpReLU, TopK
from sae_core.saes.jumprelu import JumpReLUConfig

Kind = Literal["features", "direction", "probe"]
Definition = Literal["exact", "decoupled"]
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class FeatureDetector:
    """Features of an SAE with weights."""

    features: tuple[int, ...]
    """Indices in the SAE that they come from."""
    weights: Float[np.ndarray, " channel"]
    """Of the pooled activations, one per feature."""
    bias: float
    encoder: SAE
    """Its features are the rows of `features`, in that order."""
    definition: Definition = "exact"
    sae_name: str = ""
    sae_sha256: str = ""
    """Hash of the SAE's weights; empty where it is not known."""
    kind: Kind = field(default="features", init=False)

    @classmethod
    def of(
        cls,
        sae: SAE,
        features: Sequence[int],
        weights: Float[np.ndarray, " channel"] | None = None,
        bias: float = 0.0,
        *,
        boundary: float | None = None,
        name: str = "",
        sha256: str = "",
    ) -> "FeatureDetector":
        """Return a detector on features of an SAE in its inference form.

        Args:
            sae: the SAE; its rows are copied.
            features: their indices.
            weights: 1 each by default.
            bias: added to the weighted sum.
            boundary: threshold of the decoupled features of a TopK (`boundary_of`); other architectures need none.
            name: of the SAE.
            sha256: of the SAE's weights.

        Raises:
            MonitorError: there is no such feature, or a TopK has no boundary.
        """
        if not features or len(set(features)) < len(features) or not all(0 <= index < sae.d_sae for index in features):
            raise MonitorError(f"Give features of the SAE, each once: they are 0 to {sae.d_sae - 1}.")
        rows, definition = decoupled(sae, features, boundary) if isinstance(sae, TopK) else exact(sae, features)
        own = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
        if own.shape != (len(features),) or not np.isfinite([*own, bias]).all():
            raise MonitorError(f"{len(features)} features need as many weights, all of them finite.")
        return cls(tuple(features), own, bias, rows, definition, name, sha256)

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return self.encoder.d_in

    @torch.no_grad()
    def channels(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token channel"]:
        """Return the features' activations."""
        encoded = self.encoder.encode(x.to(self.encoder.W_enc))
        return encoded[:, list(self.features)] if self.is_attached else encoded

    @property
    def is_attached(self) -> bool:
        """True if the encoder is a whole TopK, so that its features compete as they do in the SAE."""
        return isinstance(self.encoder, TopK)

    def attached_to(self, sae: SAE) -> "FeatureDetector":
        """Return the detector with the activations that `sae`, which it comes from, gives its features.

        Only a TopK's differ from those that the detector computes alone; no file keeps them.

        Raises:
            MonitorError: the SAE is another one.
        """
        if not isinstance(sae, TopK):
            return self
        if max(self.features) >= sae.d_sae or not torch.equal(sae.W_dec[list(self.features)], self.encoder.W_dec):
            raise MonitorError("The monitor's features are of another SAE. Give the one that it was made from.")
        return replace(self, encoder=sae, definition="exact")


@dataclass(frozen=True, eq=False)
class DirectionDetector:
    """Projection on a direction: that of a difference of class means (DiffMean), or one that somebody gives."""

    direction: Float[Tensor, " d_in"]
    bias: float = 0.0
    kind: Kind = field(default="direction", init=False)

    @property
    def weights(self) -> Float[np.ndarray, " channel"]:
        """1, for its only channel."""
        return np.ones(1)

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return len(self.direction)

    @torch.no_grad()
    def channels(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token channel"]:
        """Return the projections, in the direction's own length."""
        return x.float() @ self.direction.to(x.device, torch.float32)[:, None]


@dataclass(frozen=True, eq=False)
class ProbeDetector:
    """A linear probe on raw activations: every dimension is pooled, then weighted."""

    weights: Float[np.ndarray, " channel"]
    bias: float = 0.0
    kind: Kind = field(default="probe", init=False)

    @property
    def d_in(self) -> int:
        """Width of the activations that it reads."""
        return len(self.weights)

    def channels(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token channel"]:
        """Return the activations as they are."""
        return x.float()


Detector = FeatureDetector | DirectionDetector | ProbeDetector


@dataclass(frozen=True, eq=False)
class Calibration:
    """The threshold for a false-positive rate, and the benign texts that it rests on."""

    threshold: float
    fpr: float
    """The rate that was asked for."""
    texts: int
    exceeding: int
    """Calibration texts whose score is above the threshold."""
    interval: Interval
    """Clopper–Pearson, 95 %, on the rate above the threshold."""
    scores: Float[np.ndarray, " texts"]
    """Of the calibration texts, ascending; drift is measured against them."""

    @property
    def rate(self) -> float:
        """Share of the calibration texts above the threshold."""
        return self.exceeding / self.texts


@dataclass(frozen=True, eq=False)
class Monitor:
    """What is watched, on which tokens, and the score above which it alerts.

    Raises:
        MonitorError: a number is not finite.
    """

    name: str
    hook: HookPoint
    detector: Detector
    tokens: Tokens
    pool: Pool
    threshold: float
    calibration: Calibration | None = None
    live: Calibration | None = None
    """Of the largest score that a text has on its way (`calibrate_monitor`); None if no text was followed token by
    token. A mean over few tokens varies more than one over a whole text, so whoever watches a text grow needs it."""
    model_name: str = ""
    model_sha256: str = ""
    """Hash of the model's weights; empty where it is not known."""
    special_token_ids: frozenset[int] = frozenset()
    """BOS and the other special tokens, which never count."""
    prepend_bos: bool = True
    """True if a text stands behind BOS when it is scored."""

    def __post_init__(self) -> None:
        if not np.isfinite([self.threshold, self.detector.bias, *self.detector.weights]).all():
            raise MonitorError(f"The monitor {self.name!r} has a weight or a threshold that is not a finite number.")

    @property
    def live_threshold(self) -> float:
        """Threshold of a text that grows token by token."""
        return self.threshold if self.live is None else self.live.threshold

    @cached_property
    def weights(self) -> Float[np.ndarray, " channel"]:
        """Weight of each pooled channel."""
        return np.asarray(self.detector.weights, np.float64)

    def combine(self, pooled: Float[np.ndarray, "... channel"]) -> Float[np.ndarray, "..."]:
        """Return the score of pooled channels."""
        return np.asarray(np.asarray(pooled, np.float64) @ self.weights + self.detector.bias)


def exact(sae: SAE, features: Sequence[int]) -> tuple[SAE, Definition]:
    """Return the rows of features that the SAE decides one by one, which encode as the whole SAE does."""
    return narrowed(sae, features)[0], "exact"


@torch.no_grad()
def decoupled(sae: TopK, features: Sequence[int], boundary: float | None) -> tuple[SAE, Definition]:
    """Return a JumpReLU of the rows of a TopK's features: each is active above `boundary`, whatever the others do.

    Raises:
        MonitorError: there is no boundary.
    """
    if boundary is None:
        raise MonitorError("The features of a TopK compete for places, so a monitor of them needs a boundary.")
    config = {name: getattr(sae.config, name) for name in ("d_in", "d_out", "apply_b_dec_to_input")}
    normalise = sae.config.normalize_activations
    rows = JumpReLU(JumpReLUConfig(**config, d_sae=len(features), normalize_activations=normalise))
    rows = rows.to(sae.W_enc).requires_grad_(False)
    chosen = list(features)
    rows.W_enc.copy_(sae.W_enc.t()[chosen].t())
    rows.W_dec.copy_(sae.W_dec[chosen])
    rows.b_enc.copy_(sae.b_enc[chosen])
    rows.b_dec.copy_(sae.b_dec)
    rows.threshold.fill_(boundary)
    return rows, "decoupled"
