"""All metrics of one SAE, from one stream of held-out tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from sae_core.activations import ActivationCache
from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError, CheckpointError, CorpusError
from sae_core.evaluation import predictions, reconstruction
from sae_core.evaluation.features import FeatureCounts, feature_metrics
from sae_core.evaluation.predictions import Passes, scored
from sae_core.evaluation.reconstruction import ReconstructionSums
from sae_core.evaluation.resampling import ResampledSums, interval
from sae_core.memory import reuse_freed_memory
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent
from sae_core.saes import SAE

BATCH_TOKENS = 2048
"""Tokens that are encoded at once."""
LOGITS = 1 << 25
"""Logits that are held at once, 128 MB; a handful of such tensors is alive at the peak."""


class MetricRow(NamedTuple):
    """A metric with its interval, for a table."""

    name: str
    value: float
    low: float | None
    """Lower end of the 95 % interval; None if there is no interval."""
    high: float | None
    tokens: int
    """Tokens behind it; 0 for a metric of the decoder alone."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one SAE on held-out tokens. Cross-entropies (CE) and KL are in nats per token."""

    tokens: int
    """Held-out tokens behind the metrics of reconstruction and of features."""
    l0: float
    explained_variance: float
    mse: float
    cosine: float
    l2_ratio: float
    dead: int
    """Features that none of `tokens` made active; fewer tokens, more seem dead."""
    dead_fraction: float
    """Their share of all features."""
    dense: int
    """Features that are active on more than a tenth of `tokens`."""
    decoder_redundancy: float
    """Mean over features of the largest cosine of their decoder row to another's."""
    splitting_candidates: int
    """See `sae_core.evaluation.features.splitting_candidates`."""
    ce_tokens: int
    """Held-out predictions behind the metrics below."""
    ce_clean: float
    ce_sae: float
    ce_mean_ablated: float
    ce_zero_ablated: float
    ce_recovered_mean: float
    """CE recovered against mean ablation."""
    ce_recovered_zero: float
    """CE recovered against zero ablation."""
    kl: float
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals by metric: over sequences for the mean of something over tokens, over features for
    numbers of features and decoder redundancy. A metric without one is left out: where a single sequence was measured,
    or a replicate gives no number."""

    def rows(self) -> list[MetricRow]:
        """Return one row per metric, in reading order."""
        tokens = dict.fromkeys(reconstruction.METRICS, self.tokens)
        tokens |= dict.fromkeys(predictions.METRICS, self.ce_tokens)
        tokens |= {"dead": self.tokens, "dead_fraction": self.tokens, "dense": self.tokens}
        tokens |= {"decoder_redundancy": 0, "splitting_candidates": self.tokens}
        rows = []
        for name, count in tokens.items():
            low, high = self.intervals.get(name, (None, None))
            rows.append(MetricRow(name, getattr(self, name), low, high, count))
        return rows


def evaluate(
    model: LanguageModel,
    sae: SAE,
    hook: HookPoint,
    sequences: Sequences,
    *,
    target: HookPoint | None = None,
    activations: ActivationCache | None = None,
    max_tokens: int = 4096,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Measure the inference form of an SAE on the sequences held out from training.

    Only counted tokens enter. BOS and other special tokens keep their clean activations in every pass, replaced or
    ablated, because the SAE was not trained on them. A prediction is scored where both the token that makes it and
    the token it predicts are counted. Tokens are streamed: more of them need no more memory.

    Args:
        model: the model that the SAE was trained on.
        sae: in any form; `for_inference` is applied.
        hook: point that the SAE reads.
        sequences: packed by the model's tokenizer.
        target: point that a transcoder reconstructs. Its errors are against the activations there, which the passes of
            the whole model replace or ablate.
        activations: a cache of `sequences` at `hook` (and `target`). With it the metrics of reconstruction and of
            features use all held-out tokens; without it those of the sequences that `max_tokens` takes.
        max_tokens: predictions to score, rounded up to whole sequences. They cost four passes of the whole model.
        seed: of the bootstrap.
        progress: gets tokens, counted once for each pass.

    Raises:
        ArtifactError: the cache holds something else.
        CheckpointError: the SAE does not fit the hook point or the target.
        CorpusError: no counted token is held out.
        ModelError: the model has no such point, or `target` comes before `hook`.
        SAEError: activations or reconstructions are not numbers, or too large to be squared.
    """
    reuse_freed_memory()
    _require_fit(model, sae, hook, target, activations)
    sae = sae.for_inference().to(model.device)
    held_out = _held_out(sequences, max_tokens)
    scored_tokens = int(scored(torch.from_numpy(sequences.counted[held_out])).sum())
    counted = int(sequences.counted[held_out].sum()) if activations is None else activations.validation_tokens
    total = counted + 4 * scored_tokens

    sums, counts, scores = ReconstructionSums(seed), FeatureCounts.empty(sae), ResampledSums(seed)
    hooks = [hook] if target is None else [hook, target]
    source = _run(model, hooks, sequences, held_out) if activations is None else _read(activations, sequences)
    with torch.no_grad():
        for sequence, row in source:
            x = row[:, : sae.d_in].to(model.device)
            y = x if target is None else row[:, sae.d_in :].to(model.device)
            f = sae.encode(x)
            sums.compare(sequence.to(model.device), y, sae.decode(f, x), f)
            counts.add(f)
            progress(sums.tokens, total)
        passes = Passes(model, hook, target, lambda x: _reconstruct(sae, x), sums.mean_activation().float())
        for sequence, token_ids, mask in _batches(model, sequences, held_out):
            kept = scored(mask)
            if kept.any():
                scores.add(sequence[:, None].expand_as(kept)[kept], **passes.score(token_ids, mask))
                progress(counted + 4 * scores.tokens, total)
    return _evaluation(sums, counts, scores, seed)


def _require_fit(
    model: LanguageModel, sae: SAE, hook: HookPoint, target: HookPoint | None, activations: ActivationCache | None
) -> None:
    if model.d_in(hook) != sae.d_in:
        raise CheckpointError(
            f"The SAE reads {sae.d_in} dimensions but {hook} of {model.name} has {model.d_in(hook)}. "
            "Choose the model and hook point that it was trained on."
        )
    if sae.is_transcoder and target is None:
        raise CheckpointError("A transcoder reconstructs another hook point than it reads. Name it as the target.")
    if target is not None and not sae.is_transcoder:
        raise CheckpointError(f"The SAE reconstructs what it reads, not {target}. Leave the target out.")
    if target is not None and model.d_in(target) != sae.d_out:
        raise CheckpointError(
            f"The transcoder writes {sae.d_out} dimensions but {target} of {model.name} has {model.d_in(target)}. "
            "Choose the target that it was trained on."
        )
    if activations is None:
        return
    if activations.d_in != sae.d_in or (target is not None and activations.d_out != sae.d_out):
        points = hook if target is None else f"{hook} and {target}"
        raise ArtifactError(f"The activations at {activations.folder} are not those at {points}. Build them again.")


def _evaluation(sums: ReconstructionSums, counts: FeatureCounts, scores: ResampledSums, seed: int) -> Evaluation:
    by_token = {name: metric(sums) for name, metric in reconstruction.METRICS.items()}
    by_feature = feature_metrics(counts, seed)
    by_prediction = {name: metric(scores) for name, metric in predictions.METRICS.items()}
    intervals = {name: sums.interval(values) for name, values in by_token.items()}
    intervals |= {name: interval(values[1:]) for name, values in by_feature.items()}
    intervals |= {name: scores.interval(values) for name, values in by_prediction.items()}
    found: dict[str, Any] = {name: float(values[0]) for name, values in (by_token | by_feature | by_prediction).items()}
    for name in ("dead", "dense", "splitting_candidates"):
        found[name] = int(found[name])
    return Evaluation(
        tokens=sums.tokens,
        ce_tokens=scores.tokens,
        intervals={name: ends for name, ends in intervals.items() if ends is not None},
        **found,
    )


def _held_out(sequences: Sequences, max_tokens: int) -> Int[np.ndarray, " sequence"]:
    """Return the first held-out sequences that together hold `max_tokens` predictions, or all of them."""
    held_out = np.flatnonzero(sequences.is_validation())
    in_all = scored(torch.from_numpy(sequences.counted[held_out])).sum(dim=1).cumsum(dim=0)
    if len(held_out) == 0 or in_all[-1] == 0:
        raise CorpusError("No text is held out from training to evaluate on. Use a corpus with more text.")
    return held_out[: int((in_all < max_tokens).sum()) + 1]


def _batches(
    model: LanguageModel, sequences: Sequences, numbers: Int[np.ndarray, " sequence"]
) -> Iterator[tuple[Int64[Tensor, " batch"], Int64[Tensor, "batch position"], Bool[Tensor, "batch position"]]]:
    """Yield numbers, token ids and counted positions of as many sequences as have logits that fit into memory."""
    size = max(1, min(BATCH_TOKENS, LOGITS // model.vocab_size) // sequences.length)
    for start in range(0, len(numbers), size):
        chosen = numbers[start : start + size]
        arrays = (chosen, sequences.token_ids[chosen].astype(np.int64), sequences.counted[chosen])
        sequence, token_ids, counted = (torch.from_numpy(array).to(model.device) for array in arrays)
        yield sequence, token_ids, counted


def _run(
    model: LanguageModel, hooks: Sequence[HookPoint], sequences: Sequences, numbers: Int[np.ndarray, " sequence"]
) -> Iterator[tuple[Int64[Tensor, " token"], Float[Tensor, "token width"]]]:
    """Yield counted tokens' sequence numbers and activations at `hooks`, side by side, by running the model."""
    for sequence, token_ids, counted in _batches(model, sequences, numbers):
        of_token = sequence[:, None].expand_as(counted)[counted]
        activations = model.activations(token_ids, *hooks)[counted]
        if len(activations):
            yield from zip(torch.split(of_token, BATCH_TOKENS), torch.split(activations, BATCH_TOKENS), strict=True)


def _read(
    activations: ActivationCache, sequences: Sequences
) -> Iterator[tuple[Int64[Tensor, " token"], Float[Tensor, "token width"]]]:
    """Yield the same for all held-out tokens of a cache, whose batches cut sequences."""
    numbers = np.flatnonzero(sequences.is_validation())
    ends = sequences.counted[numbers].sum(axis=1).cumsum()
    start = 0
    for rows in activations.validation(BATCH_TOKENS):
        tokens = np.arange(start, start + len(rows))
        yield torch.from_numpy(numbers[np.searchsorted(ends, tokens, side="right")]), rows
        start += len(rows)


def _reconstruct(sae: SAE, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_out"]:
    """In parts, because feature activations take more room than the logits do."""
    return torch.cat([sae(part) for part in torch.split(x, BATCH_TOKENS)])
