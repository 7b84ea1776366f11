"""What a model's labels of an SAE's features score, as it is stored, and what it allows to say."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from app.services.probing import Figure, span

LEAST_SHOWN = 0.01
"""A label is better than that of another feature where all of the interval is this much above 0, or more."""


class LabelScore(BaseModel):
    """Balanced accuracy of one test over features, with the floor: what the label of another feature scores."""

    model_config = ConfigDict(frozen=True)

    own: Figure
    floor: float | None
    beyond: Figure | None
    """Own less floor, paired by feature."""
    labels: int
    """Features that were tested."""


class Interpretability(BaseModel):
    """What `SaeDetail.metrics["interpretability"]` has."""

    model_config = ConfigDict(frozen=True)

    model: str
    live: int
    features: int
    """Features that were drawn."""
    suggested: int
    detection: LabelScore | None
    """From the label alone: in which texts the feature is active."""
    fuzzing: LabelScore | None
    """The same of marked tokens."""


def read_interpretability(metrics: Mapping[str, Any]) -> Interpretability | None:
    """Return what is stored; None for an SAE whose features no model labelled and tested."""
    found = metrics.get("interpretability")
    if found is None:
        return None
    kept = {name: found[name] for name in ("model", "live", "features", "suggested")}
    return Interpretability(**kept, detection=_score(found, "detection"), fuzzing=_score(found, "fuzzing"))


def _score(found: Mapping[str, Any], kind: str) -> LabelScore | None:
    if found.get(kind) is None:
        return None
    return LabelScore(
        own=_figure(found, kind),
        floor=found[f"{kind}_floor"],
        beyond=_figure(found, f"{kind}_beyond_floor") if f"{kind}_beyond_floor" in found else None,
        labels=found[f"{kind}_labels"],
    )


def _figure(found: Mapping[str, Any], name: str) -> Figure:
    low, high = found[f"{name}_interval"]
    return Figure(value=found[name], low=low, high=high)


def interpretability_verdict(found: Interpretability | None) -> list[str]:
    """Return what the interval of detection beyond its floor allows to say, by a fixed rule."""
    if found is None or found.detection is None:
        return ["None of the labels could be tested."] if found else []
    score = found.detection
    said = (
        f"From labels that {found.model} wrote for {score.labels} of its features, drawn at random, it tells in which "
        f"held-out texts they are active with a balanced accuracy of {score.own.value:.2f} "
        f"({score.own.low:.2f} to {score.own.high:.2f}; guessing scores 0.50)"
    )
    if score.floor is None or score.beyond is None:
        return [f"{said}."]
    if score.beyond.low >= LEAST_SHOWN:
        shown = "better than"
    elif score.beyond.high <= -LEAST_SHOWN:
        shown = "worse than"
    else:
        shown = "not shown to differ from"
    return [f"{said}: {shown} labels of other features, which score {score.floor:.2f} ({span(score.beyond)})."]
