"""Made-up effects, as `sae_core.effects` gives them as JSON."""

from collections.abc import Iterator
from typing import Any


def effect(
    feature: int, ratio: float | None = None, interval: tuple[float, float] | None = None, tokens: int = 200
) -> dict[str, Any]:
    """The effect of a feature; with no tokens it was never active."""
    if not tokens:
        nothing = dict.fromkeys(("kl", "delta_loss", "delta_loss_interval", "ratio", "interval"))
        lists = {name: [] for name in ("by_band", "dose_response", "promoted", "suppressed")}
        return {"feature": feature, "active": 0, "contexts": 0, "tokens": 0, "control": {}, **nothing, **lists}
    return {
        "feature": feature,
        "active": 40,
        "contexts": 12,
        "tokens": tokens,
        "kl": 0.031,
        "delta_loss": 0.012,
        "delta_loss_interval": (0.004, 0.02),
        "control": {"kl": 0.01, "delta_loss": 0.003},
        "ratio": ratio,
        "interval": interval,
        "by_band": [
            {
                "band": 5,
                "contexts": 4,
                "tokens": 60,
                "kl": 0.06,
                "delta_loss": 0.02,
                "control_kl": 0.02,
                "ratio": 3.0,
            }
        ],
        "dose_response": [
            {
                "dose": dose,
                "added": 3 * dose,
                "kl": dose / 10,
                "kl_interval": (dose / 20, dose / 5),
                "delta_loss": dose / 50,
                "tokens": 50,
            }
            for dose in (0.5, 1.0, 2.0, 4.0)
        ],
        "promoted": [(20, 0.02), (21, 0.01)],
        "suppressed": [(22, -0.02)],
    }


def flat(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a result, with where they are."""
    if isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, f"{path}.{name}")
    elif value is not None:
        yield path, value
