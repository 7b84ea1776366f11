"""Monitors of every kind on the tiny models."""

import numpy as np
import pytest
import torch

from sae_core.models import LanguageModel
from sae_core.monitoring import DirectionDetector, FeatureDetector, Monitor, ProbeDetector
from tests.core.interventions.conftest import HOOK, random_sae, strongest


def features_monitor(
    model: LanguageModel, kind: str = "jumprelu", *, name: str = "features", **options: object
) -> Monitor:
    """A monitor of three features, the strongest on the test's text among them."""
    sae = random_sae(kind)
    feature = strongest(model, sae)
    chosen = [feature, (feature + 1) % 48, (feature + 5) % 48]
    boundary = 0.5 if kind == "topk" else None
    detector = FeatureDetector.of(sae, chosen, np.array([1.0, -0.5, 0.25]), 0.1, boundary=boundary, name="tiny")
    return monitor_of(model, detector, name=name, **options)


def monitor_of(model: LanguageModel, detector: object, *, name: str = "m", **options: object) -> Monitor:
    made = {"tokens": "all", "pool": "max", "threshold": 0.5} | options
    special = model.special_token_ids | {model.bos_token_id}
    return Monitor(
        name,
        HOOK,
        detector,
        model_name=model.name,
        model_sha256=model.weights_sha256,
        special_token_ids=special,
        **made,
    )


@pytest.fixture
def monitors(model: LanguageModel) -> list[Monitor]:
    """One of each kind."""
    direction = DirectionDetector(torch.linspace(-1, 2, 32), -0.2)
    probe = ProbeDetector(np.linspace(-1, 1, 32), 0.3)
    return [
        features_monitor(model),
        monitor_of(model, direction, name="direction", pool="ema"),
        monitor_of(model, probe, name="probe", pool="mean"),
        monitor_of(model, DirectionDetector(torch.linspace(2, -1, 32)), name="last", tokens="last"),
    ]
