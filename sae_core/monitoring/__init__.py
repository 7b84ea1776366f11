"""Monitors: what watches a model's activations, how it is trained, calibrated and compared, and how it runs."""

from sae_core.monitoring.calibration import calibrate, calibration_of, shared_texts, suspects, texts_needed
from sae_core.monitoring.candidates import Candidate, Comparison, Examples, Source, cautions, compare_candidates
from sae_core.monitoring.drift import Drift, drift
from sae_core.monitoring.files import load_monitor, monitor_from_json, monitor_to_json, save_monitor
from sae_core.monitoring.generation import generate_watched
from sae_core.monitoring.measures import Performance, RecallAt, RocPoint, Share, measure
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
    "Candidate",
    "Comparison",
    "DirectionDetector",
    "Drift",
    "Examples",
    "FeatureDetector",
    "Monitor",
    "MonitorFired",
    "Performance",
    "ProbeDetector",
    "ReadText",
    "RecallAt",
    "RocPoint",
    "RunningPool",
    "Scored",
    "Share",
    "Source",
    "TextScore",
    "Watcher",
    "calibrate",
    "calibration_of",
    "cautions",
    "compare_candidates",
    "drift",
    "generate_watched",
    "load_monitor",
    "measure",
    "monitor_from_json",
    "monitor_to_json",
    "save_monitor",
    "score_activations",
    "score_reading",
    "score_texts",
    "shared_texts",
    "suspects",
    "texts_needed",
    "watch",
]
