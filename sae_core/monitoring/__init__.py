"""Monitors: what watches a model's activations, how it is trained, calibrated and compared, and how it runs."""

from sae_core.monitoring.calibration import (
    calibrate,
    calibrate_monitor,
    calibration_of,
    shared_texts,
    suspects,
    texts_needed,
)
from sae_core.monitoring.candidates import Candidate, Comparison, cautions, compare_candidates
from sae_core.monitoring.decoupling import Decoupling, measure_decoupling
from sae_core.monitoring.drift import Drift, drift
from sae_core.monitoring.examples import Examples, Source
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
from sae_core.monitoring.scoring import (
    Followed,
    ReadText,
    TextScore,
    follow_texts,
    score_activations,
    score_reading,
    score_texts,
)
from sae_core.monitoring.streaming import RunningPool
from sae_core.monitoring.watcher import Alert, MonitorFired, Scored, Watcher, check_model, watch

__all__ = [
    "Alert",
    "Calibration",
    "Candidate",
    "Comparison",
    "Decoupling",
    "DirectionDetector",
    "Drift",
    "Examples",
    "FeatureDetector",
    "Followed",
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
    "calibrate_monitor",
    "calibration_of",
    "cautions",
    "check_model",
    "compare_candidates",
    "drift",
    "follow_texts",
    "generate_watched",
    "load_monitor",
    "measure",
    "measure_decoupling",
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
