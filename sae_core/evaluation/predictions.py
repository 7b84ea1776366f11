"""Loss of the model's predictions when it reads the reconstruction.

A metric gives the value for the sample and for each replicate (see `sae_core.evaluation.resampling`). Cross-entropies
(CE) and KL are in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from sae_core.evaluation.resampling import ResampledSums
from sae_core.models import HookPoint, LanguageModel
from sae_core.models.language_model import Replace

Values = Float64[Tensor, "1+replicate"]


@dataclass(frozen=True)
class Passes:
    """Four passes of the model over the same tokens, which differ in what it reads at one point."""

    model: LanguageModel
    hook: HookPoint
    target: HookPoint | None
    """The point where activations are replaced, if it is not `hook`, which `reconstruct` reads."""
    reconstruct: Callable[[Float[Tensor, "token d_in"]], Float[Tensor, "token d_out"]]
    mean: Float[Tensor, " d_out"]
    """Replaces activations in mean ablation."""

    def score(
        self, token_ids: Int[Tensor, "batch position"], counted: Bool[Tensor, "batch position"]
    ) -> dict[str, Float[Tensor, " prediction"]]:
        """Surprisals −log p(next token) by what the model reads at counted tokens, and "kl", of the scored predictions.

        Tokens that are not counted keep their clean activations.
        """
        kept = scored(counted)
        following = token_ids[:, 1:][kept][:, None]
        replacements: dict[str, Replace] = {
            "clean": lambda y, _: y,
            "sae": lambda _, x: self.reconstruct(x),
            "mean_ablated": lambda y, _: self.mean.expand_as(y),
            "zero_ablated": lambda y, _: torch.zeros_like(y),
        }
        scores: dict[str, Tensor] = {}
        clean = torch.empty(0)
        for name, replacement in replacements.items():
            logits = self._logits(token_ids, counted, replacement)
            log_p = log_softmax(logits[:, :-1][kept], dim=1)
            scores[name] = -log_p.gather(1, following)[:, 0]
            if name == "clean":
                clean = log_p
            elif name == "sae":
                scores["kl"] = kl_div(log_p, clean, reduction="none", log_target=True).sum(dim=1, dtype=torch.float64)
        return scores

    def _logits(
        self,
        token_ids: Int[Tensor, "batch position"],
        counted: Bool[Tensor, "batch position"],
        replacement: Replace,
    ) -> Float[Tensor, "batch position vocab"]:
        def replace(y: Tensor, x: Tensor) -> Tensor:
            replaced = y.clone()
            replaced[counted] = replacement(y[counted], x[counted])
            return replaced

        if self.target is None:
            return self.model.logits(token_ids, self.hook, replace)
        return self.model.logits(token_ids, self.target, replace, read=self.hook)


def scored(counted: Bool[Tensor, "batch position"]) -> Bool[Tensor, "batch position-1"]:
    """Positions whose prediction is scored: both the token and its successor are counted."""
    return counted[:, :-1] & counted[:, 1:]


def cross_entropy(sums: ResampledSums, read: str) -> Values:
    """Mean of −log p(next token), where the model read "clean", "sae", "mean_ablated" or "zero_ablated" activations."""
    return sums.mean(read)


def ce_recovered(sums: ResampledSums, ablated: str) -> Values:
    """(CE_ablated − CE_sae) / (CE_ablated − CE_clean): 1 is as good as clean, 0 as bad as the ablation.

    `ablated` is "mean_ablated" or "zero_ablated". NaN where the ablation costs nothing.
    """
    baseline = cross_entropy(sums, ablated)
    cost = baseline - cross_entropy(sums, "clean")
    return torch.where(cost == 0, torch.nan, (baseline - cross_entropy(sums, "sae")) / cost)


def kl(sums: ResampledSums) -> Values:
    """Mean of KL(clean ‖ sae) = Σ p_clean (log p_clean − log p_sae) over next tokens."""
    return sums.mean("kl")


METRICS: dict[str, Callable[[ResampledSums], Values]] = {
    "ce_clean": partial(cross_entropy, read="clean"),
    "ce_sae": partial(cross_entropy, read="sae"),
    "ce_mean_ablated": partial(cross_entropy, read="mean_ablated"),
    "ce_zero_ablated": partial(cross_entropy, read="zero_ablated"),
    "ce_recovered_mean": partial(ce_recovered, ablated="mean_ablated"),
    "ce_recovered_zero": partial(ce_recovered, ablated="zero_ablated"),
    "kl": kl,
}
"""In reading order."""
