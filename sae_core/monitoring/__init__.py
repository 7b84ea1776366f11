"""Monitors: what watches a model's activations, how it is trained, calibrated and compared, and how it runs."""

from sae_core.monitoring.files import load_monitor, monitor_from_json, monitor_to_json, save_monitor
from sae_core.monitoring.generation import generate_watched
from sae_core.monitoring.monitor import (
    Calibration,
    DirectionDetector,
    FeatureDetector,
    Monitor,
    ProbeDetector,
)
from sae_core.monitoring.scoring import ReadText, TextScore, score_activations, score_reading, score_texts
from sae_core.monitoring.streaming import RunningPool
from sae_core.monitoring.watch import Alert, MonitorFired, Scored, Watcher, watch

__all__ = [
    "Alert",
    "Calibration",
    "DirectionDetector",
    "FeatureDetector",
    "Monitor",
    "MonitorFired",
    "ProbeDetector",
    "ReadText",
    "RunningPool",
    "Scored",
    "TextScore",
    "Watcher",
    "generate_watched",
    "load_monitor",
    "monitor_from_json",
    "monitor_to_json",
    "save_monitor",
    "score_activations",
    "score_reading",
    "score_texts",
    "watch",
]
