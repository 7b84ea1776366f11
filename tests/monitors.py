"""A monitor of the SAE that tests probe, with made-up figures of its candidates."""

from typing import Any

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.monitors import NewAlert, NewMonitor, add_scores, get_monitor, put_monitor
from app.queries.saes import SaeDetail
from app.services.actors import Actor, ensure_person
from sae_core.models import HookPoint
from sae_core.monitoring import FeatureDetector, Monitor, ProbeDetector, calibration_of, monitor_to_json
from sae_core.saes import TopK
from tests.app.inference.dictionaries import HOOK, random_sae

FPR = 0.01


def performance(auroc: float) -> dict[str, Any]:
    share = {"count": 3, "texts": 100, "interval": [0.006, 0.085], "value": 0.03}
    recalls = [{"fpr": fpr, "recall": 0.5, "interval": [0.4, 0.6], "resolved": fpr * 100 >= 1} for fpr in (0.01, 0.001)]
    return {
        "positive": 40,
        "benign": 100,
        "auroc": auroc,
        "auroc_interval": [auroc - 0.02, auroc + 0.02],
        "log_auroc": 0.5,
        "recall_at_fpr": recalls,
        "recall": share,
        "false_positives": share,
        "roc": [[0.0, 0.0], [0.01, 0.5], [0.2, 0.9], [1.0, 1.0]],
    }


def live(threshold: float, auroc: float) -> dict[str, Any]:
    found = {"texts": 400, "fpr": FPR, "exceeding": 2, "interval": [0.0006, 0.0179]}
    return {"threshold": threshold, **found, "on_the_way": 17, "test": performance(auroc)}


def candidate(name: str, title: str, auroc: float, threshold: float, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "baseline": not name.startswith("feature"),
        "runs": name not in ("words", "length"),
        "features": [],
        "decoupled": False,
        "validation_auroc": auroc,
        "threshold": threshold,
        "calibration": {"texts": 400, "fpr": FPR, "exceeding": 3, "interval": [0.0015, 0.0218]},
        "live": live(threshold + 0.5, auroc) if name not in ("words", "length") else None,
        "test": performance(auroc),
        "out_of_distribution": performance(auroc - 0.2),
        "cautions": [],
        "suspects": 0,
        **fields,
    }


async def add_monitor(
    session: AsyncSession,
    sae: SaeDetail,
    run: int | None = None,
    *,
    name: str = "kings",
    own: TopK | None = None,
    keep_text: bool = False,
    threshold: float = 1.0,
    positive: str = "<b>moods</b>:happy",
    note: str = "W" * 80,
) -> str:
    """Store a monitor of two features of `own`, beside a linear probe and words; its name."""
    dictionary = own or random_sae(sae.d_in)
    scores = np.linspace(0, 1.01, 400)
    found = calibration_of(threshold, scores, FPR)
    common: dict[str, Any] = {
        "hook": HookPoint.parse(sae.hook) if own is None else HOOK,
        "tokens": "all",
        "pool": "max",
        "threshold": threshold,
        "calibration": found,
        "live": calibration_of(threshold + 0.5, scores, FPR),
        "model_name": sae.model.name,
        "model_sha256": sae.model.weights_sha256,
    }
    features = FeatureDetector.of(dictionary, [3, 7], np.array([1.0, 0.5]), boundary=0.1, name=sae.slug)
    probe = ProbeDetector(np.random.default_rng(0).normal(size=sae.d_in), 0.1)
    files = {
        "features-10": monitor_to_json(Monitor(name, detector=features, **common)),
        "probe-mean": monitor_to_json(Monitor(name, detector=probe, **common | {"pool": "mean"})),
    }
    weights = [{"feature": 3, "weight": 1.0}, {"feature": 7, "weight": 0.5}]
    caution = (
        "A baseline does better than the best SAE features: the AUROC of “Linear probe, mean of raw activations” is "
        "higher than that of “2 SAE features” by 0.040 (0.010 to 0.070)."
    )
    elsewhere = (
        "The threshold does not hold on texts from elsewhere: 3 of 100 benign ones are above it (3.0%), where 1.0% was "
        "asked for."
    )
    candidates = [
        candidate("probe-mean", "Linear probe, mean of raw activations", 0.95, 2.0, cautions=[caution]),
        candidate("features-10", "2 SAE features", 0.91, threshold, features=weights, cautions=[caution, elsewhere]),
        candidate("words", "Bag of words", 0.88, 0.7),
    ]
    figures = {
        "positive": positive,
        "benign": "moods:sad",
        "elsewhere": ["other:happy", "other:sad"],
        "hashes": {},
        "max_tokens": 64,
        "candidates": candidates,
        "chosen_by_run": "features-10",
        "best": "probe-mean",
        "best_features": "features-10",
        "best_baseline": "probe-mean",
        "baseline_wins": True,
        "lead": 0.04,
        "lead_interval": [0.01, 0.07],
        "shared": 0,
        "notes": [note],
    }
    new = NewMonitor(
        name=name,
        sae_id=sae.id,
        sae=sae.slug,
        sae_sha256=sae.weights_sha256,
        model_id=sae.model.id,
        model=sae.model.name,
        candidate="features-10",
        threshold=threshold,
        fpr=FPR,
        tokens="all",
        pool="max",
        keep_text=keep_text,
        figures=figures,
        files=files,
        owner_id=await ensure_person(session, Actor("ada")),
        run_id=run,
    )
    assert await put_monitor(session, new)
    return name


async def add_alerts(
    session: AsyncSession, name: str, *, number: int = 3, text: str | None = None, token: str = "", place: str = "moods"
) -> list[int]:
    """Store alerts of a monitor, as a scan would; their ids."""
    monitor = await get_monitor(session, name)
    assert monitor is not None
    words = text if text is None else [{"position": 1, "value": 2.0, "text": token or text}]
    alerts = [
        NewAlert(
            score=2.0 + nth,
            threshold=monitor.threshold,
            source="scan",
            run_id=None,
            place=f"{place} {nth}",
            sha256="0" * 64,
            text=text,
            tokens=words or [{"position": 1, "value": 2.0}],
        )
        for nth in range(number)
    ]
    scores = [0.1] * 50 + [alert.score for alert in alerts]
    return await add_scores(session, monitor.id, scores, alerts, source="scan")
