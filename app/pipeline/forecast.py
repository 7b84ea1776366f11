"""Forecast of the seconds that each stage of a run takes on this machine, from one second of measuring.

The model reads a few sequences, and the encoder's product is taken a few times. What else a run does is counted in
these two, by factors that were measured on two CPU cores (docs/demo.md). A stage's own speed counts as soon as it runs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sae_core.corpora import Sequences
from sae_core.models import HookPoint, LanguageModel
from sae_core.training import TrainingConfig

_SECONDS = 1.0
"""Spent on measuring, or what one pass and one product take."""
_SEQUENCES = 4
"""Sequences in a pass that is timed."""
_ROWS = 2048
_STEP = 1.75
"""A training step in products of the encoder: selection, gradients and Adam with it (benchmarks/README.md)."""
_ENCODE = 1.15
"""Encoding a token, its sorting and its writing, in products of the encoder."""
_ACTIVE = 100
"""Statistics of one active feature on one token, in products of the encoder's column."""
_PUBLISH = 100_000
"""Publishing a feature, in products of the encoder's column."""
_MAP = 15.0, 0.002
"""Seconds of a map: for compiling and starting UMAP, and for each feature."""
_EVALUATE = 1.3
"""Evaluating a prediction, in four passes of the whole model."""
_EFFECT = 1300
"""Tokens that the layers above the SAE read to measure one effect."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Throughput of this machine, per second."""

    tokens: float
    """Counted tokens that the model reads, up to the last hook point."""
    products: float
    """Multiplications of an activation by one column of the encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Work of a run after the forward pass over its text."""

    trained: Sequence[TrainingConfig] = ()
    """SAEs that it trains."""
    indexed: tuple[int, float] | None = None
    """Features of the SAE that it indexes, and how many of them are active per token."""
    predictions: int = 0
    """Predictions that its evaluation scores."""
    effects: int = 0
    """Features whose effects it measures."""


def measure_speed(model: LanguageModel, hooks: Sequence[HookPoint], sequences: Sequences) -> Speed:
    """Measure both, in a second or two."""
    token_ids = torch.from_numpy(sequences.token_ids[:_SEQUENCES]).long()
    counted = float(sequences.counted[:_SEQUENCES].sum())
    x = torch.randn(_ROWS, model.d_in(hooks[0]), device=model.device)
    columns = torch.randn(x.shape[1], 4096, device=model.device)
    with torch.no_grad():
        reading, multiplying = _seconds_each(
            (lambda: model.activations(token_ids, *hooks), lambda: x @ columns), model.device
        )
    return Speed(counted / reading, len(x) * columns.shape[1] / multiplying)


def _seconds_each(works: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Return the seconds that each work takes. They take turns, so that other load on the machine slows all alike."""
    taken, rounds = [0.0] * len(works), -1
    while rounds < 1 or sum(taken) < _SECONDS:
        if rounds == 0:  # the first round, which prepares things, does not count
            taken = [0.0] * len(works)
        for number, work in enumerate(works):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken[number] += time.perf_counter() - began
        rounds += 1
    return [seconds / rounds for seconds in taken]


def expected_seconds(
    speed: Speed, model: LanguageModel, hook: HookPoint, sequences: Sequences, work: Work
) -> dict[str, float]:
    """Return the seconds of each stage, by its name, of `work` on an SAE at `hook`."""
    tokens = sequences.n_counted
    seconds = {"activations": tokens / speed.tokens}
    if work.trained:
        seconds["train"] = sum(_STEP * config.samples * config.d_sae for config in work.trained) / speed.products
    if work.indexed is not None:
        features, active = work.indexed
        output = features * (model.vocab_size + features)
        seconds["encode"] = _ENCODE * tokens * features / speed.products
        seconds["statistics"] = (output + _ACTIVE * tokens * active) / speed.products
        seconds["publish"] = _PUBLISH * features / speed.products
        seconds["map"] = _MAP[0] + _MAP[1] * features
        seconds["compare"] = 1.0
    below, whole = _weights(model, hook)
    seconds["evaluate"] = _EVALUATE * 4 * work.predictions * whole / below / speed.tokens
    seconds["effects"] = work.effects * _EFFECT * (whole - below) / below / speed.tokens
    return seconds


def _weights(model: LanguageModel, hook: HookPoint) -> tuple[float, float]:
    """Return how many weights a token is multiplied by up to a hook point, and in all."""
    unembedding = model.vocab_size * model.d_model
    blocks = sum(weight.numel() for weight in model.hf_model.parameters() if weight.ndim > 1) - unembedding
    if not getattr(model.hf_model.config, "tie_word_embeddings", False):
        blocks -= unembedding
    blocks = max(blocks, 1)
    return blocks * (hook.layer + 1) / model.n_layers, blocks + unembedding
