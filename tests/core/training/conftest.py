import pytest

from sae_core.training import clock, loop


@pytest.fixture(autouse=True)
def small_start_sample(monkeypatch):
    """Report each step, and start from a sample that is as small as the activations of these tests."""
    monkeypatch.setattr(clock, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "START_SAMPLE", 1024)
