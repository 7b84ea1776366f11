"""The controller that sets an L1 penalty's λ, so that a run ends with k active features per token."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

DESCENT = 0.5
"""Share of the steps over which the wanted L0 goes to k from that of the start values."""
PROPORTIONAL = 1.0
"""Factor from an error in ln L0 to ln λ."""
INTEGRAL = 10.0
"""The same for an error that lasts the whole run."""
LARGEST = 0.5
"""Largest error in ln L0 that λ answers to, and by which the wanted L0 may be away from the actual one."""


@dataclass
class L0Control:
    """A proportional-integral controller of ln λ by the error e = ln L0 − ln of the L0 that is wanted at this step.

    λ = λ₀ exp(PROPORTIONAL · e + INTEGRAL · Σ e / steps), with λ₀ the architecture's `l1_coefficient`.

    L0 answers to λ by gradient descent, that is slowly, and at first hundreds of features are active. So the wanted L0
    falls slowly too, by a factor per step that brings it to k after `DESCENT` of the run, and waits where the actual
    one cannot follow: otherwise λ would rise all the while, and then push L0 far below k.
    The arithmetic stays on the device.
    """

    k: int
    """Active features per token to end with."""
    steps: int
    """Of the whole run."""
    numbers: Float[Tensor, "3"]
    """The whole state: ln of the wanted L0, the last step's error, and the integral's part of ln λ."""

    @classmethod
    def start(cls, k: int, steps: int, device: torch.device) -> Self:
        """Return the controller before the first step, which takes λ₀."""
        return cls(k, steps, torch.zeros(3, dtype=torch.float64, device=device))

    def factor(self) -> Float[Tensor, ""]:
        """Return λ / λ₀ for the next step."""
        return (PROPORTIONAL * self.numbers[1] + self.numbers[2]).exp().float()

    def observe(self, l0: Float[Tensor, ""], step: int) -> None:
        """Take in the L0 of a step, counted from 0."""
        actual = l0.double().clamp(min=0.1).log()
        before, _, integral = self.numbers
        before = actual if step == 0 else before
        left = DESCENT * self.steps - step
        wanted = before + (math.log(self.k) - before) / max(1.0, left)
        if left > 1:
            wanted = wanted.clamp(actual - LARGEST, actual + LARGEST)
        error = (actual - wanted).clamp(-LARGEST, LARGEST)
        self.numbers.copy_(torch.stack([wanted, error, integral + INTEGRAL / self.steps * error]))
