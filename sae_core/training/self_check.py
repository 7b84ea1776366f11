"""The check of the kernels for GPUs against plain torch, at the start of a run that asks for them."""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sae_core.devices import float32_products
from sae_core.kernels import gpu
from sae_core.training.config import TrainingConfig
from sae_core.training.state import TrainingState
from sae_core.training.step import Step, TorchStep, step_for

STEPS = 4
"""Two by single launches and two by the captured graph; in the last ones some features are dead."""
MOST_ROWS, MOST_FEATURES = 2048, 8192
"""Size of the problem, if the run's is larger: it needs little time and memory."""
TOLERANCE = {"float32": (1e-3, 0.98), "tf32": (0.1, 0.8), "bf16": (0.1, 0.8)}
"""For each precision the largest relative difference of a loss, and the least cosine between updates of a parameter."""


def disagreement(
    config: TrainingConfig, d_in: int, d_out: int | None, rows: Float[Tensor, "batch d_in+d_out"]
) -> str | None:
    """Train two small SAEs for a few steps, by the kernels and by torch; return in what they differ, if they do.

    Args:
        config: of the run, resolved.
        d_in: width of what the SAE reads.
        d_out: width of what a transcoder reconstructs.
        rows: a batch of activations, on the device.
    """
    rows = rows[: max(config.accumulate, min(len(rows), MOST_ROWS) // config.accumulate * config.accumulate)]
    ours, plain = (_state(config, d_in, d_out, rows) for _ in range(2))
    start = {name: parameter.detach().clone() for name, parameter in plain.sae.named_parameters()}
    try:
        with gpu.enabled():
            of_ours = _trained(step_for(ours, triton=True), config, rows)
    except Exception as error:  # a kernel that does not compile raises what its compiler likes
        return f"{type(error).__name__}: {error}"
    of_plain = _trained(TorchStep(plain), config, rows)
    tolerance, least_cosine = TOLERANCE[config.precision]
    for what, one, other in zip(("loss", "squared error", "L0"), of_ours.T.tolist(), of_plain.T.tolist(), strict=True):
        for step, (a, b) in enumerate(zip(one, other, strict=True), start=1):
            if not abs(a - b) <= tolerance * abs(b):
                return f"at step {step} the {what} is {a:.6g} instead of {b:.6g}"
    for (name, one), other in zip(ours.sae.named_parameters(), plain.sae.parameters(), strict=True):
        move, expected = ((parameter.detach() - start[name]).flatten() for parameter in (one, other))
        cosine = float(cosine_similarity(move, expected, dim=0))
        if not cosine >= least_cosine:
            return f"the updates of {name} have a cosine of {cosine:.2f}"
    return None


def _state(
    config: TrainingConfig, d_in: int, d_out: int | None, rows: Float[Tensor, "batch d_in+d_out"]
) -> TrainingState:
    """Return the state of a small SAE of this kind, with start values; its features die after one step."""
    small = replace(
        config,
        d_sae=min(config.d_sae, MOST_FEATURES),
        batch_size=len(rows),
        samples=10 * STEPS * len(rows),
        dead_after=len(rows),
        lr=1e-3,
        log_every=1,
        compile=False,
    )
    state = TrainingState.create(small, d_in, Path(), rows.device, d_out=d_out)
    state.sae.initialise(rows[:, :d_in], config.seed, target=rows[:, d_in:] if d_out else None)
    with torch.no_grad():
        # An autoencoder's encoder starts as its decoder's transpose, so that a token's only feature leaves it no error:
        # then a gradient is the noise of rounding, which Adam makes into whole steps.
        state.sae.W_enc.mul_(0.7)
    return state


def _trained(step: Step, config: TrainingConfig, rows: Float[Tensor, "batch d_in+d_out"]) -> Float[Tensor, "step 3"]:
    """Return loss, squared error and L0 of each step."""
    with float32_products(tf32=config.precision == "tf32"):
        points = [
            torch.stack([getattr(losses, name).detach().float() for name in ("total", "mse", "l0")]).cpu()
            for losses in (step(rows) for _ in range(STEPS))
        ]
    return torch.stack(points)
