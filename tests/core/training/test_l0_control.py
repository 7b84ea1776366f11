"""The controller of λ, against a plant that can be computed: L0 that answers to λ slowly."""

import math

import pytest
import torch

from sae_core.training import train
from sae_core.training.curves import read_curves
from sae_core.training.l0_control import LARGEST, PROPORTIONAL, L0Control
from sae_core.training.state import TrainingState
from tests.core.training.synthetic import Synthetic, small

CPU = torch.device("cpu")


def controlled(k, steps, *, start=1000.0, strength=1.0, speed=0.3):
    """L0 of each step, and λ / λ₀, where L0 approaches `strength` · 100 / λ: by `speed` · |ln λ₀| a step at most."""
    control = L0Control.start(k, steps, CPU)
    l0, l0s, factors = start, [], []
    for step in range(steps):
        factors.append(float(control.factor()))
        goal = math.log(strength * 100 / factors[-1])
        l0 *= math.exp(max(-speed, min(speed, 0.1 * (goal - math.log(l0)))))
        l0s.append(l0)
        control.observe(torch.tensor(l0), step)
    return l0s, factors


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("k", [16, 64, 256])
def test_l0_ends_at_k_whatever_the_first_price(k, strength):
    l0s, _ = controlled(k, 250, strength=strength)
    assert l0s[-1] == pytest.approx(k, rel=0.02)


def test_l0_that_falls_slowly_ends_at_k_too():
    """It is at k after 42 % of the run at the earliest, while the fall that is wanted begins faster than it can."""
    l0s, factors = controlled(16, 250, start=3000.0, speed=0.05)
    assert l0s[-1] == pytest.approx(16, rel=0.05)
    assert max(factors) < 100


def test_an_l0_of_zero_makes_the_price_fall():
    control = L0Control.start(32, 100, CPU)
    control.observe(torch.tensor(100.0), 0)
    for step in range(1, 20):
        control.observe(torch.tensor(0.0), step)
    assert 0 < float(control.factor()) < math.exp(-PROPORTIONAL * LARGEST)


def test_the_curves_show_the_price_that_the_controller_came_to(tmp_path):
    train(small(architecture="standard", log_every=20), Synthetic(), tmp_path / "controlled", device="cpu")
    prices = [point["l1_coefficient"] for point in read_curves(tmp_path / "controlled")]
    assert len(set(prices)) == 3
    resumed = TrainingState.resume(
        small(architecture="standard", log_every=20).resolved(), 16, tmp_path / "controlled", CPU
    )
    assert resumed.l1_coefficient() == prices[-1]
    given = small(architecture="standard", options={"l1_coefficient": 1.0})
    train(given, Synthetic(), tmp_path / "given", device="cpu")
    assert "l1_coefficient" not in read_curves(tmp_path / "given")[0]
