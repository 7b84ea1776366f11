"""What an audit takes, beside the model and the SAE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

MIN_PAIRS = 10
"""With fewer pairs nothing can be said: an audit refuses them."""
MIN_RANKED = 10
"""An attribute with fewer pairs is shown with its interval, and neither tested nor ranked."""


class SetText(Protocol):
    """A text of a text set; `app.queries.text_sets.TextItem` is one."""

    @property
    def text(self) -> str:
        """The text itself."""

    @property
    def label(self) -> str | None:
        """Side of its pair."""

    @property
    def group(self) -> str | None:
        """Attribute that it is about."""

    @property
    def pair(self) -> str | None:
        """Key of its pair."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """All else."""


@dataclass(frozen=True)
class NeutralText:
    """Text that has nothing to do with the audit, such as held-out sequences of the SAE's corpus."""

    token_ids: Sequence[int]
    """With the prefix."""
    counted: Bool[np.ndarray, " position"]
    """True for tokens that statistics include."""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """How an audit is made. All of it is part of the result's identity."""

    features: tuple[int, ...] | None = None
    """Features to ablate; without them the strongest of those that differ are chosen."""
    top: int = 10
    """Features to choose at most."""
    q: float = 0.05
    """False discovery rate under which a feature can be chosen."""
    listed: int = 50
    """Features that the result lists at most."""
    random_controls: int = 3
    limit: int | None = None
    """Items to measure at most, drawn by hash; all without it."""
    max_tokens: int = 512
    """Per text; one that is longer is left out."""
    replicates: int = 1000
    """Of the bootstrap."""
    seed: int = 0
