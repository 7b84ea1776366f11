"""Sites in JSON: what an edit's file holds, and what a model in another process is told."""

from typing import Any

from sae_core.interventions.ops import Intervention, Positions, Site
from sae_core.interventions.sae_json import sae_from_json, sae_to_json, tensor_from_json, tensor_to_json
from sae_core.models import HookPoint
from sae_core.saes import SAE


def site_to_json(site: Site) -> dict[str, Any]:
    """Return a site as JSON: of its SAE, what it takes to encode the features concerned."""
    return {
        "hook": str(site.hook),
        "write": None if site.write is None else str(site.write),
        "sae": sae_to_json(site.sae, site.encoded) if site.sae is not None and site.encoded else None,
        "interventions": [_change_to_json(change, site.sae) for change in site.interventions],
    }


def site_from_json(content: dict[str, Any]) -> Site:
    """Return the site that `site_to_json` wrote.

    Raises:
        SAEError, KeyError, TypeError, ValueError, AttributeError, RuntimeError: it did not write this.
    """
    sae: SAE | None = None
    row_of: dict[int, int] = {}
    if content["sae"] is not None:
        sae, row_of = sae_from_json(content["sae"])
    write = None if content["write"] is None else HookPoint.parse(content["write"])
    changes = [_change_from_json(change, row_of) for change in content["interventions"]]
    return Site(HookPoint.parse(content["hook"]), changes, sae, write)


def _change_to_json(change: Intervention, sae: SAE | None) -> dict[str, Any]:
    direction = change.direction
    if change.op == "add" and change.feature is not None:
        assert sae is not None
        direction = sae.W_dec[change.feature] if change.along is None else change.along
    match change.positions:
        case str():
            positions: Any = change.positions
        case (first, end):
            positions = {"from": first, "to": end}
        case _:
            positions = sorted(change.positions)
    return {
        "op": change.op,
        "value": change.value,
        "feature": change.feature,
        "direction": None if direction is None else tensor_to_json(direction),
        "along": None if direction is not None or change.along is None else tensor_to_json(change.along),
        "positions": positions,
        "special_tokens": change.special_tokens,
    }


def _change_from_json(content: dict[str, Any], row_of: dict[int, int]) -> Intervention:
    direction = None if content["direction"] is None else tensor_from_json(content["direction"])
    feature = row_of[content["feature"]] if direction is None else None
    positions: Positions = content["positions"]
    match content["positions"]:
        case {"from": first, "to": end}:
            positions = (int(first), int(end))
        case list(chosen):
            positions = frozenset(int(position) for position in chosen)
    return Intervention(
        content["op"],
        float(content["value"]),
        feature=feature,
        direction=direction,
        positions=positions,
        along=tensor_from_json(content["along"]) if content.get("along") else None,
        special_tokens=bool(content["special_tokens"]),
    )
