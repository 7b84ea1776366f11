"""How good an SAE is: reconstruction, sparsity, and what the model loses when it reads the reconstruction.

Each metric is one function of sums that are kept in float64, with its formula and source.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax

from sae_core.activations import ActivationCache
from sae_core.corpora import Sequences
from sae_core.errors import CheckpointError, CorpusError, SAEError
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent
from sae_core.running_variance import RunningVariance
from sae_core.saes import SAE

BATCH_TOKENS = 2048
"""Tokens that are encoded at once."""
LOGITS = 1 << 25
"""Logits that are held at once, 128 MB; a handful of such tensors is alive at the peak."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one SAE on held-out tokens. Cross-entropies (CE) and KL are in nats per token."""

    tokens: int
    """Held-out tokens behind the reconstruction metrics."""
    l0: float
    explained_variance: float
    mse: float
    cosine: float
    l2_ratio: float
    dead_fraction: float
    """Share of the features that none of `tokens` made active; fewer tokens, more seem dead."""
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


def evaluate(
    model: LanguageModel,
    sae: SAE,
    hook: HookPoint,
    sequences: Sequences,
    *,
    activations: ActivationCache | None = None,
    max_tokens: int = 4096,
    progress: Progress = silent,
) -> Evaluation:
    """Measure the inference form of an SAE on the sequences held out from training.

    Only counted tokens enter. BOS and other special tokens keep their clean activations in every pass, replaced or
    ablated, because the SAE was not trained on them. A prediction is scored where both the token that makes it and
    the token it predicts are counted.

    Args:
        model: what the SAE was trained on.
        sae: in any form; `for_inference` is applied.
        hook: where the SAE reads.
        sequences: packed by the model's tokenizer.
        activations: a cache of `sequences` at `hook`. With it the reconstruction metrics use all held-out tokens;
            without it `max_tokens` of them.
        max_tokens: predictions to score, rounded up to whole sequences. They cost four passes of the whole model.
        progress: gets tokens, counted once for each pass.

    Raises:
        CheckpointError: the SAE's width is not the hook point's.
        CorpusError: no counted token is held out.
        SAEError: activations or reconstructions are not numbers.
    """
    if model.d_in(hook) != sae.d_in:
        raise CheckpointError(
            f"The SAE reads {sae.d_in} dimensions but {hook} of {model.name} has {model.d_in(hook)}. "
            "Choose the model and hook point that it was trained on."
        )
    sae = sae.for_inference().to(model.device)
    held_out = _held_out(sequences, max_tokens)
    scored_tokens = int(_scored(torch.from_numpy(sequences.counted[held_out])).sum())
    counted = int(sequences.counted[held_out].sum()) if activations is None else activations.validation_tokens
    total = counted + 4 * scored_tokens

    reconstruction = ReconstructionSums.empty(sae)
    source = _run(model, hook, sequences, held_out) if activations is None else activations.validation(BATCH_TOKENS)
    with torch.no_grad():
        for x in source:
            reconstruction.add(sae, x.to(model.device))
            progress(reconstruction.tokens, total)
        mean = reconstruction.inputs.mean.float()
        predictions = PredictionSums()
        for token_ids, mask in _batches(model, sequences, held_out):
            predictions.add(model, hook, token_ids, mask, sae, mean)
            progress(counted + 4 * predictions.tokens, total)
    return _evaluation(reconstruction, predictions)


@dataclass
class ReconstructionSums:
    """Sums over tokens behind the reconstruction metrics."""

    inputs: RunningVariance
    active: Bool[Tensor, " d_sae"]
    tokens: int = 0
    activations: float = 0.0
    squared_error: float = 0.0
    cosine: float = 0.0
    l2_ratio: float = 0.0

    @classmethod
    def empty(cls, sae: SAE) -> "ReconstructionSums":
        """Over no tokens yet."""
        device = sae.W_dec.device
        return cls(RunningVariance.empty(sae.d_in, device), torch.zeros(sae.d_sae, dtype=torch.bool, device=device))

    def add(self, sae: SAE, x: Float[Tensor, "batch d_in"]) -> None:
        """Take in a batch of activations.

        Raises:
            SAEError: if an activation or a reconstruction is not a number.
        """
        f = sae.encode(x)
        reconstructed = sae.decode(f)
        if not (x.isfinite().all() and reconstructed.isfinite().all()):
            raise SAEError("Activations or reconstructions hold NaN or infinite values. Check the model and the SAE.")
        norm = torch.linalg.vector_norm(x, dim=1).clamp(min=torch.finfo(x.dtype).tiny)
        self.inputs.add(x)
        self.active |= (f > 0).any(dim=0)
        self.tokens += len(x)
        self.activations += int((f > 0).sum())
        self.squared_error += float((x - reconstructed).square().sum(dtype=torch.float64))
        self.cosine += float(cosine_similarity(x, reconstructed).sum(dtype=torch.float64))
        self.l2_ratio += float((torch.linalg.vector_norm(reconstructed, dim=1) / norm).sum(dtype=torch.float64))


def l0(sums: ReconstructionSums) -> float:
    """Mean over tokens of #{f > 0}."""
    return sums.activations / sums.tokens


def mse(sums: ReconstructionSums) -> float:
    """Mean over tokens of ‖x − x̂‖², summed over dimensions."""
    return sums.squared_error / sums.tokens


def explained_variance(sums: ReconstructionSums) -> float:
    """1 − E‖x − x̂‖² / E‖x − μ‖², μ the mean over all tokens: a ratio of means, in which predicting μ scores 0.

    Averaging per batch or per dimension instead, as some evaluations do, gives credit for the mean.

    Raises:
        SAEError: if the activations do not vary.
    """
    variance = sums.inputs.variance()
    if variance == 0:
        raise SAEError("The activations are the same on every token, so nothing can be explained. Use more text.")
    return 1 - mse(sums) / variance


def cosine(sums: ReconstructionSums) -> float:
    """Mean over tokens of cos(x, x̂)."""
    return sums.cosine / sums.tokens


def l2_ratio(sums: ReconstructionSums) -> float:
    """Mean over tokens of ‖x̂‖ / ‖x‖; below 1 where sparsity shrinks activations."""
    return sums.l2_ratio / sums.tokens


def dead_fraction(sums: ReconstructionSums) -> float:
    """Share of the features that were active on none of the tokens."""
    return 1 - int(sums.active.sum()) / len(sums.active)


@dataclass
class PredictionSums:
    """Sums over scored predictions, by what the model read at the hook point."""

    tokens: int = 0
    surprisal: dict[str, float] = field(default_factory=dict)
    """Σ −log p(next token) for "clean", "sae", "mean_ablated" and "zero_ablated"."""
    kl: float = 0.0

    def add(
        self,
        model: LanguageModel,
        hook: HookPoint,
        token_ids: Int[Tensor, "batch position"],
        counted: Bool[Tensor, "batch position"],
        sae: SAE,
        mean: Float[Tensor, " d_in"],
    ) -> None:
        """Take in a batch of sequences, with one pass of the model for each of the four."""
        scored = _scored(counted)
        targets = token_ids[:, 1:][scored][:, None]
        replacements: dict[str, Callable[[Tensor], Tensor]] = {
            "clean": lambda x: x,
            "sae": sae,
            "mean_ablated": lambda x: mean.expand_as(x),
            "zero_ablated": torch.zeros_like,
        }
        clean = torch.empty(0)
        for name, replacement in replacements.items():
            logits = model.logits(token_ids, hook, _on(counted, replacement))
            log_p = log_softmax(logits[:, :-1][scored], dim=1)
            surprisal = -log_p.gather(1, targets).sum(dtype=torch.float64)
            self.surprisal[name] = self.surprisal.get(name, 0.0) + float(surprisal)
            if name == "clean":
                clean = log_p
            elif name == "sae":
                self.kl += float(kl_div(log_p, clean, reduction="none", log_target=True).sum(dtype=torch.float64))
        self.tokens += len(targets)


def cross_entropy(sums: PredictionSums, name: str) -> float:
    """Mean of −log p(next token), in nats; `name` is what the model read, see `PredictionSums.surprisal`."""
    return sums.surprisal[name] / sums.tokens


def ce_recovered(sums: PredictionSums, ablated: str) -> float:
    """(CE_ablated − CE_sae) / (CE_ablated − CE_clean): 1 is as good as clean, 0 as bad as the ablation.

    `ablated` is "mean_ablated" or "zero_ablated". NaN where the ablation costs nothing.
    """
    baseline = cross_entropy(sums, ablated)
    cost = baseline - cross_entropy(sums, "clean")
    return (baseline - cross_entropy(sums, "sae")) / cost if cost else float("nan")


def kl(sums: PredictionSums) -> float:
    """Mean of KL(clean ‖ sae) = Σ p_clean (log p_clean − log p_sae) over next tokens, in nats."""
    return sums.kl / sums.tokens


def _evaluation(reconstruction: ReconstructionSums, predictions: PredictionSums) -> Evaluation:
    return Evaluation(
        tokens=reconstruction.tokens,
        l0=l0(reconstruction),
        explained_variance=explained_variance(reconstruction),
        mse=mse(reconstruction),
        cosine=cosine(reconstruction),
        l2_ratio=l2_ratio(reconstruction),
        dead_fraction=dead_fraction(reconstruction),
        ce_tokens=predictions.tokens,
        ce_clean=cross_entropy(predictions, "clean"),
        ce_sae=cross_entropy(predictions, "sae"),
        ce_mean_ablated=cross_entropy(predictions, "mean_ablated"),
        ce_zero_ablated=cross_entropy(predictions, "zero_ablated"),
        ce_recovered_mean=ce_recovered(predictions, "mean_ablated"),
        ce_recovered_zero=ce_recovered(predictions, "zero_ablated"),
        kl=kl(predictions),
    )


def _held_out(sequences: Sequences, max_tokens: int) -> Int[np.ndarray, " sequence"]:
    """The first held-out sequences that together hold `max_tokens` predictions, or all of them."""
    held_out = np.flatnonzero(sequences.is_validation())
    predictions = _scored(torch.from_numpy(sequences.counted[held_out])).sum(dim=1).cumsum(dim=0)
    if len(held_out) == 0 or predictions[-1] == 0:
        raise CorpusError("No text is held out from training to evaluate on. Use a corpus with more text.")
    return held_out[: int((predictions < max_tokens).sum()) + 1]


def _scored(counted: Bool[Tensor, "batch position"]) -> Bool[Tensor, "batch position-1"]:
    """Where both a token and its successor are counted."""
    return counted[:, :-1] & counted[:, 1:]


def _on(counted: Bool[Tensor, "batch position"], function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply `function` to the activations of counted tokens, and leave the others."""

    def replace(x: Float[Tensor, "batch position d_in"]) -> Float[Tensor, "batch position d_in"]:
        replaced = x.clone()
        replaced[counted] = function(x[counted])
        return replaced

    return replace


def _batches(
    model: LanguageModel, sequences: Sequences, numbers: Int[np.ndarray, " sequence"]
) -> Iterator[tuple[Int[Tensor, "batch position"], Bool[Tensor, "batch position"]]]:
    """Token ids and counted positions, so many sequences at once that their logits fit into memory."""
    size = max(1, LOGITS // (sequences.length * model.vocab_size))
    for start in range(0, len(numbers), size):
        chosen = numbers[start : start + size]
        token_ids = torch.from_numpy(sequences.token_ids[chosen]).long().to(model.device)
        yield token_ids, torch.from_numpy(sequences.counted[chosen]).to(model.device)


def _run(
    model: LanguageModel, hook: HookPoint, sequences: Sequences, numbers: Int[np.ndarray, " sequence"]
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """The activations of counted tokens, where there is no cache."""
    for token_ids, counted in _batches(model, sequences, numbers):
        yield model.activations(token_ids, hook)[counted]
