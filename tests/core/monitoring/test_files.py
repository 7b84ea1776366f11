"""Monitors as JSON files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.errors import MonitorError
from sae_core.models import LanguageModel
from sae_core.monitoring import (
    Calibration,
    FeatureDetector,
    Monitor,
    load_monitor,
    measure_decoupling,
    monitor_from_json,
    monitor_to_json,
    save_monitor,
    score_texts,
)
from tests.core.interventions.conftest import HOOK, TEXT, random_sae
from tests.core.monitoring.conftest import features_monitor

CALIBRATION = Calibration(0.5, 0.01, 400, 3, (0.001, 0.02), np.linspace(-1, 1, 400))


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_a_file_needs_no_sae(model: LanguageModel, monitors: list[Monitor], kind: str, tmp_path: Path) -> None:
    made = [
        replace(features_monitor(model, kind), calibration=CALIBRATION, live=replace(CALIBRATION, threshold=0.75)),
        *monitors[1:],
    ]
    read = []
    for number, monitor in enumerate(made):
        save_monitor(monitor, tmp_path / f"{number}.json")
        read.append(load_monitor(tmp_path / f"{number}.json"))
    before, after = (score_texts(model, which, [TEXT])[0] for which in (made, read))
    for one, other in zip(before.scores, after.scores, strict=True):
        np.testing.assert_array_equal(one.running, other.running)
        assert np.ptp(one.running) > 0
    assert read[0].calibration is not None
    assert (read[0].live_threshold, read[1].live_threshold, read[1].live) == (0.75, made[1].threshold, None)
    np.testing.assert_array_equal(read[0].calibration.scores, CALIBRATION.scores)
    for name in ("name", "hook", "tokens", "pool", "threshold", "model_sha256", "special_token_ids", "prepend_bos"):
        assert [getattr(monitor, name) for monitor in read] == [getattr(monitor, name) for monitor in made]
    assert read[0].detector.features == made[0].detector.features
    assert read[0].detector.definition == ("decoupled" if kind == "topk" else "exact")


def test_rows_give_the_activations_of_the_whole_sae(model: LanguageModel) -> None:
    x = model.activations(torch.tensor([model.tokenize(TEXT)]), HOOK)[0]
    for kind in ("standard", "jumprelu"):
        sae = random_sae(kind, normalize_activations="layer_norm")
        torch.testing.assert_close(FeatureDetector.of(sae, [7, 3]).channels(x), sae.encode(x)[:, [7, 3]])
    sae = random_sae("topk")
    alone = FeatureDetector.of(sae, [7, 3], boundary=0.4)
    pre = sae.pre_activations(x)[:, [7, 3]]
    torch.testing.assert_close(alone.channels(x), torch.where(pre > 0.4, pre, 0))
    whole = alone.attached_to(sae)
    torch.testing.assert_close(whole.channels(x), sae.encode(x)[:, [7, 3]])
    found = measure_decoupling(alone, sae, x)
    active, expected = pre > 0.4, sae.encode(x)[:, [7, 3]] > 0
    assert (found.both, found.exact_only) == (int((active & expected).sum()), int((expected & ~active).sum()))
    assert found.decoupled_only == int((active & ~expected).sum()) > 0
    assert found.differing == pytest.approx(float((active ^ expected).sum() / (active | expected).sum()))
    jump = random_sae("jumprelu")
    assert measure_decoupling(FeatureDetector.of(jump, [7, 3]), jump, x).differing == 0
    with pytest.raises(MonitorError, match="another SAE"):
        alone.attached_to(random_sae("topk", seed=1))
    with pytest.raises(MonitorError, match="boundary"):
        FeatureDetector.of(sae, [7])


def test_what_is_no_monitor_is_refused(monitors: list[Monitor], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no")
    with pytest.raises(MonitorError, match="not valid JSON"):
        load_monitor(tmp_path / "text")
    with pytest.raises(MonitorError, match="cannot be read"):
        load_monitor(tmp_path / "none")
    content = monitor_to_json(monitors[0])
    assert monitor_from_json(json.loads(json.dumps(content)), "it").name == "features"
    for damage in (
        {"format": "seesae-monitor-0"},
        {"tokens": "some"},
        {"threshold": float("nan")},
        {"hook": "nowhere"},
        {"detector": content["detector"] | {"features": [1]}},
        {"detector": content["detector"] | {"kind": "other"}},
        {"detector": {}},
    ):
        with pytest.raises(MonitorError, match="it is"):
            monitor_from_json(content | damage, "it")
