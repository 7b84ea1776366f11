"""A monitor as one JSON file, which needs neither the SAE nor the tokenizer; arrays are in base64."""

import base64
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float

from sae_core.errors import MonitorError, SAEError, first_line
from sae_core.files import write_json
from sae_core.interventions.sae_json import sae_from_json, sae_to_json, tensor_from_json, tensor_to_json
from sae_core.models import HookPoint
from sae_core.monitoring.monitor import (
    Calibration,
    Definition,
    Detector,
    DirectionDetector,
    FeatureDetector,
    Monitor,
    ProbeDetector,
)
from sae_core.readings import Pool, Tokens

FORMAT = "seesae-monitor-1"
"""Changes when a file of an older version can no longer be read as it is."""


def save_monitor(monitor: Monitor, path: str | Path) -> None:
    """Write a monitor to a file.

    Raises:
        ArtifactError: the disk is full.
    """
    write_json(Path(path), monitor_to_json(monitor))


def load_monitor(path: str | Path) -> Monitor:
    """Read a monitor from a file.

    Raises:
        MonitorError: there is no such file, or it is no monitor.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise MonitorError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except ValueError:
        raise MonitorError(f"{path} is not valid JSON. Give the file of a monitor.") from None
    return monitor_from_json(content, str(path))


def monitor_to_json(monitor: Monitor) -> dict[str, Any]:
    """Return what the file of a monitor holds."""
    return {
        "format": FORMAT,
        "name": monitor.name,
        "model": monitor.model_name,
        "model_sha256": monitor.model_sha256,
        "hook": str(monitor.hook),
        "tokens": monitor.tokens,
        "pool": monitor.pool,
        "threshold": monitor.threshold,
        "special_token_ids": sorted(monitor.special_token_ids),
        "prepend_bos": monitor.prepend_bos,
        "detector": _detector_to_json(monitor.detector),
        "calibration": _calibration_to_json(monitor.calibration),
        "live": _calibration_to_json(monitor.live),
    }


def monitor_from_json(content: Any, source: str) -> Monitor:
    """Return the monitor that `monitor_to_json` wrote; `source` names it in messages.

    Raises:
        MonitorError: it is no monitor.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise MonitorError(
            f"{source} is not a monitor of the format {FORMAT}. Save the monitor again, with this version."
        )
    try:
        return Monitor(
            name=str(content["name"]),
            hook=HookPoint.parse(content["hook"]),
            detector=_detector_from_json(content["detector"]),
            tokens=_one_of(Tokens, content["tokens"]),
            pool=_one_of(Pool, content["pool"]),
            threshold=float(content["threshold"]),
            calibration=_calibration_from_json(content["calibration"]),
            live=_calibration_from_json(content["live"]),
            model_name=str(content["model"]),
            model_sha256=str(content["model_sha256"]),
            special_token_ids=frozenset(int(token_id) for token_id in content["special_token_ids"]),
            prepend_bos=bool(content["prepend_bos"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SAEError) as error:
        raise MonitorError(f"{source} is a damaged monitor: {type(error).__name__}, {first_line(error)}.") from error


def _detector_to_json(detector: Detector) -> dict[str, Any]:
    common = {"kind": detector.kind, "bias": detector.bias}
    match detector:
        case FeatureDetector():
            if detector.is_attached:
                raise MonitorError("A monitor attached to a whole TopK has no file. Save the one that was attached.")
            return {
                **common,
                "features": list(detector.features),
                "weights": _floats_to_json(detector.weights),
                "definition": detector.definition,
                "sae": detector.sae_name,
                "sae_sha256": detector.sae_sha256,
                "encoder": sae_to_json(detector.encoder, range(len(detector.features))),
            }
        case DirectionDetector():
            return {**common, "direction": tensor_to_json(detector.direction)}
        case ProbeDetector():
            return {**common, "weights": _floats_to_json(detector.weights)}


def _detector_from_json(content: dict[str, Any]) -> Detector:
    bias = float(content["bias"])
    match content["kind"]:
        case "features":
            features = tuple(int(feature) for feature in content["features"])
            weights = _floats_from_json(content["weights"])
            encoder, _ = sae_from_json(content["encoder"])
            if not len(features) == len(weights) == encoder.d_sae:
                raise ValueError("features, weights and encoder rows differ in number")
            definition = _one_of(Definition, content["definition"])
            return FeatureDetector(
                features, weights, bias, encoder, definition, str(content["sae"]), str(content["sae_sha256"])
            )
        case "direction":
            direction = tensor_from_json(content["direction"])
            if direction.ndim != 1 or not torch.isfinite(direction).all():
                raise ValueError("the direction is not one vector of finite numbers")
            return DirectionDetector(direction, bias)
        case "probe":
            return ProbeDetector(_floats_from_json(content["weights"]), bias)
        case kind:
            raise ValueError(f"{kind!r} is not a kind of detector")


def _calibration_to_json(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    return {
        "threshold": calibration.threshold,
        "fpr": calibration.fpr,
        "texts": calibration.texts,
        "exceeding": calibration.exceeding,
        "interval": list(calibration.interval),
        "scores": _floats_to_json(calibration.scores),
    }


def _calibration_from_json(content: dict[str, Any] | None) -> Calibration | None:
    if content is None:
        return None
    low, high = content["interval"]
    return Calibration(
        threshold=float(content["threshold"]),
        fpr=float(content["fpr"]),
        texts=int(content["texts"]),
        exceeding=int(content["exceeding"]),
        interval=(float(low), float(high)),
        scores=_floats_from_json(content["scores"]),
    )


def _one_of(choices: Any, value: Any) -> Any:
    if value not in get_args(choices):
        raise ValueError(f"{value!r} is not one of {', '.join(get_args(choices))}")
    return value


def _floats_to_json(values: Float[np.ndarray, " value"]) -> str:
    return base64.b64encode(np.asarray(values, "<f8").tobytes()).decode()


def _floats_from_json(content: str) -> Float[np.ndarray, " value"]:
    return np.frombuffer(base64.b64decode(content, validate=True), "<f8").astype(np.float64)
