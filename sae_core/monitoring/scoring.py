"""Scores of whole texts: from a reading, or by running the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.errors import MonitorError
from sae_core.models import LanguageModel
from sae_core.monitoring.monitor import DirectionDetector, FeatureDetector, Monitor, ProbeDetector
from sae_core.monitoring.streaming import RunningPool
from sae_core.progress import Progress, silent
from sae_core.readings import Part, Reading, Text, Tokens, pool_features, tokenize_text


@dataclass(frozen=True, eq=False)
class TextScore:
    """One monitor's score of one text, and its course."""

    score: float
    alert: bool
    positions: Int[np.ndarray, " token"]
    """Positions of the watched tokens in the text as the model reads it, BOS included."""
    values: Float[np.ndarray, " token"]
    """Score of each watched token alone."""
    running: Float[np.ndarray, " token"]
    """Score of the text up to each watched token."""
    channels: Float[np.ndarray, "token channel"]
    """Activations of the features, projection, or raw activations of each watched token."""

    @property
    def peak(self) -> float:
        """Largest score that the text has on its way, its last included."""
        return float(self.running.max(initial=self.score))


@dataclass(frozen=True)
class ReadText:
    """A text as the model reads it, and the scores of each monitor, in order."""

    token_ids: list[int]
    parts: list[int]
    """`Part` of each token."""
    scores: list[TextScore]


@dataclass(frozen=True, eq=False)
class Followed:
    """One monitor's scores of texts."""

    scores: Float[np.ndarray, " texts"]
    """Of whole texts."""
    peaks: Float[np.ndarray, " texts"]
    """The largest score that each text has on its way, its last included."""


def watched(
    parts: Int[np.ndarray, " position"], counted: Bool[np.ndarray, " position"], tokens: Tokens
) -> Bool[np.ndarray, " position"]:
    """Return True for the tokens that a monitor watches; for `last` any counted one, since each may be the last."""
    match tokens:
        case "all":
            return np.asarray(counted & (parts != Part.TEMPLATE))
        case "user":
            return np.asarray(counted & (parts == Part.USER))
        case "assistant":
            return np.asarray(counted & (parts == Part.ASSISTANT))
        case "last":
            return counted


def pool_of(monitor: Monitor) -> RunningPool:
    """Return the running pool of a text that begins."""
    return RunningPool(monitor.pool, len(monitor.weights), only_last=monitor.tokens == "last")


def score_activations(
    monitor: Monitor,
    x: Float[Tensor, "position d_in"],
    parts: Int[np.ndarray, " position"],
    counted: Bool[np.ndarray, " position"],
) -> TextScore:
    """Return the score of one text from its activations at the hook point.

    A text without watched tokens has the score of activations that are all 0.

    Raises:
        MonitorError: the activations have another width.
    """
    require_width(monitor, x.shape[-1])
    positions = np.flatnonzero(watched(parts, counted, monitor.tokens))
    channels = monitor.detector.channels(x[torch.from_numpy(positions).to(x.device)]).cpu().double().numpy()
    running = monitor.combine(pool_of(monitor).extend(channels))
    score = float(running[-1] if len(running) else monitor.combine(np.zeros(len(monitor.weights))))
    return TextScore(score, score > monitor.threshold, positions, monitor.combine(channels), running, channels)


def score_texts(
    model: LanguageModel, monitors: Sequence[Monitor], texts: Sequence[Text], *, max_tokens: int = 512
) -> list[ReadText]:
    """Return every monitor's score of every text, each in a forward pass of its own.

    Raises:
        ChatError: the model has no chat format, or it refuses a chat.
        ModelError: the model lacks a hook point, or a row for a token.
        MonitorError: a monitor is of a model of another width.
    """
    return [_score_text(model, monitors, text, max_tokens) for text in texts]


def follow_texts(
    model: LanguageModel,
    monitors: Sequence[Monitor],
    texts: Sequence[Text],
    *,
    max_tokens: int = 512,
    progress: Progress = silent,
) -> list[Followed]:
    """Return what `score_texts` gives of many texts, without what it gives of their tokens; one per monitor.

    Raises:
        ChatError, ModelError, MonitorError: as `score_texts`.
    """
    found = np.zeros((len(texts), len(monitors), 2))
    for number, text in enumerate(texts):
        found[number] = [(own.score, own.peak) for own in _score_text(model, monitors, text, max_tokens).scores]
        progress(number + 1, len(texts))
    return [Followed(*of_monitor) for of_monitor in found.transpose(1, 2, 0)]


def _score_text(model: LanguageModel, monitors: Sequence[Monitor], text: Text, max_tokens: int) -> ReadText:
    prepend_bos = all(monitor.prepend_bos for monitor in monitors)
    read = tokenize_text(model, text, prepend_bos=prepend_bos, max_tokens=max_tokens)
    ids = torch.tensor([read.ids], dtype=torch.long)
    found = {
        hook: model.activations(ids, hook)[0] if read.ids else torch.zeros(0, model.d_in(hook))
        for hook in dict.fromkeys(monitor.hook for monitor in monitors)
    }
    scores = [score_activations(monitor, found[monitor.hook], read.parts, read.counted) for monitor in monitors]
    return ReadText(read.ids, read.parts.tolist(), scores)


def score_reading(monitor: Monitor, reading: Reading) -> Float[np.ndarray, " texts"]:
    """Return the score of every text of a reading of the SAE that the monitor's features come from.

    A TopK's reading has the whole SAE's activations, not the decoupled ones.

    Raises:
        MonitorError: the reading lacks what the monitor needs.
    """
    match monitor.detector:
        case FeatureDetector(features=features):
            if max(features) >= reading.d_sae:
                raise MonitorError(f"The monitor {monitor.name!r} is not of the SAE that these texts were read with.")
            pooled = pool_features(reading, monitor.pool, monitor.tokens)[:, list(features)].toarray()
        case ProbeDetector():
            pooled = _residual(monitor, reading, linear=False)
        case DirectionDetector(direction=direction):
            along = direction.double().cpu().numpy()
            pooled = (_residual(monitor, reading, linear=True).astype(np.float64) @ along)[:, None]
    return monitor.combine(pooled)


def _residual(monitor: Monitor, reading: Reading, *, linear: bool) -> Float[np.ndarray, "texts d_in"]:
    pool = residual_pool(monitor.tokens, monitor.pool)
    if pool not in reading.residual or (linear and monitor.pool == "max" and pool != "last"):
        raise MonitorError(
            f"A reading has no raw activations for {monitor.tokens!r} tokens pooled by {monitor.pool!r}: "
            "score the texts with the model."
        )
    require_width(monitor, reading.residual[pool].shape[1])
    return reading.residual[pool]


def residual_pool(tokens: Tokens, pool: str) -> str:
    """Return the name by which a reading has raw activations of some tokens, pooled."""
    return "last" if tokens == "last" else pool if tokens == "all" else f"{tokens}-{pool}"


def require_width(monitor: Monitor, width: int) -> None:
    """Refuse activations of another model or hook point.

    Raises:
        MonitorError: they have another width than the monitor reads.
    """
    if monitor.detector.d_in != width:
        raise MonitorError(
            f"The monitor {monitor.name!r} reads {monitor.detector.d_in} dimensions at {monitor.hook}, "
            f"and the model has {width} there. Give the model that it was made on."
        )
