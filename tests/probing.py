"""What probing found, made up, as an SAE's metrics have it."""

from typing import Any

FIGURE = {"value": 0.75, "low": 0.7, "high": 0.8}


def difference(against: str, value: float, low: float, high: float) -> dict[str, Any]:
    """Return one difference."""
    return {"against": against, "value": value, "low": low, "high": high}


def probing(**sets: dict[str, tuple[float, float, float]]) -> dict[str, Any]:
    """Return figures of text sets with these differences by control, (0.1, 0.05, 0.15) where none is given."""
    kinds = [*((by, k) for k in (1, 2, 5) for by in ("features", "random", "channels")), ("activations", None)]
    return {
        "active": 32,
        "draws": 5,
        "max_tokens": 128,
        "ks": [1, 2, 5],
        "sets": [
            {
                "name": name,
                "classes": ["no", "yes"],
                "train": 160,
                "test": 40,
                "resampled": 40,
                "draws": 5,
                "probes": [{"by": by, "k": k, "accuracy": FIGURE, "auroc": FIGURE} for by, k in kinds],
                "differences": [
                    difference(against, *given.get(against, (0.1, 0.05, 0.15)))
                    for against in ("random", "channels", "activations")
                ],
            }
            for name, given in sets.items()
        ],
    }
