"""Explanations of a feature's output tokens: how they were ranked, and how much they say at the SAE's layer."""

from collections.abc import Mapping
from typing import Any

from app.queries.saes import SaeDetail
from app.web.components.formatting import plural
from app.web.components.glossary import is_imported_index

LATE = 2 / 3
"""Share of the layers after which a direct effect on the logits says most of what a direction does. Before it, most of
what a feature does to the output goes through later layers (nostalgebraist 2020, Belrose et al. 2023)."""

_STANDARDISED = (
    "What its decoder direction adds to the logit of the next token, per unit of activation, beyond the mean of this "
    "SAE's features; in order of standard deviations over the features."
)
_RAW = "What its decoder direction adds to the logit of the next token, per unit of activation; the largest first."
_IMPORTED = "What its decoder direction adds to the logit of the next token, as the export gives it."
_DIRECT = "A direct effect only, without what later layers make of it."


def output_meaning(sae: SaeDetail) -> str:
    """Return what the numbers beside output tokens are."""
    if is_imported_index(sae):
        return f"{_IMPORTED} {_DIRECT}"
    assert sae.index is not None
    known = sae.index.provenance.get("output_tokens")
    return f"{_STANDARDISED if isinstance(known, Mapping) else _RAW} {_DIRECT}"


def output_depth(sae: SaeDetail) -> str:
    """Return a sentence of caution if the SAE is early in the model; '' if it is late, or its place is not known."""
    name, _, layer = (sae.hook_out or sae.hook).rpartition(".")
    if not layer.isdigit() or not int(layer) < LATE * sae.model.n_layers:
        return ""
    following = sae.model.n_layers - int(layer) - (0 if name == "resid_pre" else 1)
    return (
        f"With {following} of the model's {plural(sae.model.n_layers, 'layer')} after this point, these tokens say "
        "little about most features: trust the examples first."
    )


def no_output_tokens(provenance: Mapping[str, Any]) -> str | None:
    """Return why the features of an index have no output tokens, as a sentence; None if they have, or it is unknown."""
    known = provenance.get("output_tokens")
    if known is False:  # of an index from before version 3 of the statistics
        known = {"absent": "the SAE does not write to the residual stream"}
    reason = known.get("absent") if isinstance(known, Mapping) else None
    return f"There are no output tokens, because {reason}." if reason else None


FILTERS = {
    "no_output_tokens": no_output_tokens,
    "output_depth": output_depth,
    "output_meaning": output_meaning,
}
