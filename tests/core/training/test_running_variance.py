import pytest
import torch

from sae_core.training.running_variance import RunningVariance


def test_running_variance_is_stable_where_the_mean_is_large():
    x = 1e4 + torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0))
    running = RunningVariance.empty(8, torch.device("cpu"))
    for batch in x.split([1, 999, 4000, 5000]):
        running.add(batch)
    exact = x.double()
    assert running.variance() == pytest.approx(float((exact - exact.mean(dim=0)).square().sum(dim=1).mean()), rel=1e-4)
    torch.testing.assert_close(running.mean, exact.mean(dim=0), rtol=1e-6, atol=0)
