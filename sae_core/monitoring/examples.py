"""Texts of one kind with what a model makes of them, and what read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from sae_core.models import HookPoint
from sae_core.readings import Reading, Text, select_texts
from sae_core.saes import SAE


@dataclass(frozen=True, eq=False)
class Examples:
    """Texts of one kind, and what the model makes of them."""

    reading: Reading
    texts: Sequence[str]
    splits: Sequence[str]
    """Part of each text: `train`, `calibration` or `test`."""
    chats: Sequence[Text] | None = None
    """The texts as the model reads them; without, it reads `texts`, which are the words of chats."""

    @property
    def as_read(self) -> Sequence[Text]:
        """The texts as the model reads them."""
        return self.texts if self.chats is None else self.chats

    def __len__(self) -> int:
        return len(self.texts)

    def choose(self, rows: Sequence[int] | Int64[np.ndarray, " chosen"]) -> "Examples":
        """Return some of the texts."""
        texts, splits = ([values[row] for row in rows] for values in (self.texts, self.splits))
        chats = None if self.chats is None else [self.chats[row] for row in rows]
        return Examples(select_texts(self.reading, rows), texts, splits, chats)

    def part(self, split: str) -> "Examples":
        """Return the texts of one part."""
        return self.choose([row for row, name in enumerate(self.splits) if name == split])


@dataclass(frozen=True, eq=False)
class Source:
    """Model and SAE that the texts were read with."""

    sae: SAE
    hook: HookPoint
    sae_name: str = ""
    sae_sha256: str = ""
    model_name: str = ""
    model_sha256: str = ""
    special_token_ids: frozenset[int] = frozenset()


Score = Callable[[Examples], Float[np.ndarray, " texts"]]
"""Scores texts without a model."""
