"""What the stages of an audit share. Each result is a file, whole or absent: an interrupted audit continues."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from sae_core.auditing.config import AuditConfig
from sae_core.auditing.intervals import Weights, bootstrap_weights
from sae_core.auditing.items import Item, is_chosen_half
from sae_core.auditing.measures import Instrument, Values
from sae_core.auditing.scoring import LogProbs
from sae_core.auditing.treatments import SaeAt
from sae_core.effects import TextChange
from sae_core.errors import ArtifactError
from sae_core.files import write_atomically, write_json
from sae_core.models import LanguageModel
from sae_core.progress import Progress, rescaled

UNITS = 1000
"""Of the progress of a whole audit."""


@dataclass(frozen=True)
class Plan:
    """The stages of an audit."""

    tokens: Mapping[str, int]
    """Of each stage, in the order in which they are made."""

    def share(self, stage: str) -> tuple[float, float]:
        """Return where a stage starts and ends, as shares of the whole audit."""
        before = 0
        for name, tokens in self.tokens.items():
            if name == stage:
                whole = max(sum(self.tokens.values()), 1)
                return before / whole, (before + tokens) / whole
            before += tokens
        raise KeyError(stage)


@dataclass
class Run:
    """What all stages of one audit share, and what they note."""

    model: LanguageModel
    place: SaeAt
    instrument: Instrument
    config: AuditConfig
    folder: Path | None
    progress: Progress
    plan: Plan
    raw: list[Mapping[str, Any]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    def part(self, stage: str) -> Progress:
        """Report a stage as its part of the whole audit."""
        return rescaled(self.progress, UNITS, *self.plan.share(stage))

    def weights(self, items: int) -> Weights:
        """Return the bootstrap over so many items."""
        return bootstrap_weights(items, self.config.replicates, self.config.seed)

    def note_items(self, treatment: str, items: Sequence[Item], scores: LogProbs, values: Values) -> None:
        """Keep what the model said about items under one treatment."""
        for row, item in enumerate(items):
            there = np.isfinite(scores.total[row])
            self.raw.append(
                {
                    "stage": "item",
                    "treatment": treatment,
                    "item": item.key,
                    "attribute": item.attribute,
                    "half": "chosen" if is_chosen_half(item) else "tested",
                    "candidates": [candidate.name for candidate in item.candidates],
                    "log_probs": scores.total[row][there].tolist(),
                    "tokens": scores.tokens[row][there].tolist(),
                    "answers": dict(item.answers),
                    "values": {name: _number(column[row]) for name, column in values.items()},
                }
            )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def kept_scores(folder: Path | None, name: str, make: Callable[[], LogProbs]) -> LogProbs:
    """Return the scores of a stage: from its file, or made and written there.

    Raises:
        ArtifactError: the file is damaged, or the disk is full.
    """
    path = None if folder is None else folder / f"{name}.npz"
    if path is not None and path.exists():
        try:
            with np.load(path, allow_pickle=False) as file:
                return LogProbs(file["total"], file["tokens"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise _damaged(path, error) from error
    found = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, total=found.total, tokens=found.tokens))
    return found


def kept_array(
    folder: Path | None, name: str, make: Callable[[], Float32[np.ndarray, "..."]]
) -> Float32[np.ndarray, "..."]:
    """Return the array of a stage: from its file, or made and written there.

    Raises:
        ArtifactError: the file is damaged, or the disk is full.
    """
    path = None if folder is None else folder / f"{name}.npy"
    if path is not None and path.exists():
        try:
            kept: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, error) from error
        return kept
    found = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.save(file, found))
    return found


def kept_json(folder: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """Return the result of a stage as JSON has it.

    Raises:
        ArtifactError: the file is damaged, or the disk is full.
    """
    path = None if folder is None else folder / f"{name}.json"
    if path is not None and path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(path, error) from error
    found = json.loads(json.dumps(make()))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return found


def kept_text_changes(folder: Path | None, name: str, make: Callable[[], list[TextChange]]) -> list[TextChange]:
    """Return changes of texts.

    Raises:
        ArtifactError: the file is damaged, or the disk is full.
    """
    rows: list[dict[str, Any]] = kept_json(folder, name, lambda: [asdict(change) for change in make()])
    return [TextChange(**row | {name: tuple(row[name]) for name in ("kl", "rise", "top_changed")}) for row in rows]


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} is damaged ({error}). Delete it, and run the audit again.")
