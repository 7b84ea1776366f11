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


def controlled(k, settled, *, steps=245, lag=17, delay=5, gain=1.4, start=512.0):
    """L0 of each step, of an SAE whose L0 settles at `settled` with λ₀.

    The plant is what was measured on a residual stream (1,024 features, 245 steps): ln L0 answers to ln λ with a gain
    of about -1.4, by two lags of some 17 steps one after the other, and as slowly as the learning rate at either end.
    """
    control = L0Control.start(k, steps, CPU)
    first = l0 = math.log(start)
    waiting = [0.0] * delay
    l0s = []
    for step in range(steps):
        waiting.append(math.log(float(control.factor())))
        goal = math.log(settled) - gain * waiting.pop(0)
        rate = min(1.0, (step + 1) / (0.05 * steps), (steps - step) / (0.2 * steps)) / lag
        first += (goal - first) * rate
        l0 += (first - l0) * rate
        l0s.append(math.exp(l0))
        control.observe(torch.tensor(l0s[-1]), step)
    return l0s


@pytest.mark.parametrize(("lag", "delay", "gain"), [(17, 5, 1.4), (8, 3, 1.0), (17, 6, 1.8)])
@pytest.mark.parametrize("settled", [12, 20, 40])
@pytest.mark.parametrize("k", [16, 32, 64])
def test_l0_ends_at_k_whatever_the_first_price(k, settled, lag, delay, gain):
    l0s = controlled(k, settled, lag=lag, delay=delay, gain=gain)
    assert l0s[-1] == pytest.approx(k, rel=0.05)
    assert min(l0s) > 0.4 * k  # features that a far too high price closes stay closed


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
