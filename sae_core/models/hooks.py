"""Hook points: where inside a model activations are read or replaced, by interp-engine's names."""

from dataclasses import dataclass
from typing import Any

from interp_engine.address import AddressError, parse_address
from interp_engine.arch import Quirks
from interp_engine.mappers import UnmappedHook, point_to_tlens_hook, tlens_hook_to_point

from sae_core.errors import ModelError

POINTS = (
    "resid_pre",
    "attn_in",
    "z",
    "attn_out",
    "attn_out_post",
    "resid_mid",
    "mlp_in",
    "mlp_act",
    "mlp_out",
    "mlp_out_post",
    "resid_post",
)
"""Points that are the whole input or output of one module of a layer, in the order of the forward pass."""

# TransformerLens' `hook_mlp_out` is what the MLP adds to the residual stream, after any norm behind it. interp-engine
# maps it so only for a model that has such norms; where there is none, `mlp_out_post` is the same tensor as `mlp_out`.
_CONTRIBUTIONS = Quirks(sandwich_norms=True)


@dataclass(frozen=True, slots=True)
class HookPoint:
    """One point of one layer, such as the residual stream after layer 9: `resid_post.9`."""

    name: str
    """interp-engine's name of the point, one of `POINTS`."""
    layer: int
    """Layer, from 0."""

    @classmethod
    def parse(cls, text: str) -> "HookPoint":
        """Read `resid_post.9`, or TransformerLens' `blocks.9.hook_resid_post`.

        Raises:
            ModelError: `text` does not name a point of a layer.
        """
        address = _parse(text)
        if address is None or address.name not in POINTS or address.layer is None or address.stream is not None:
            raise ModelError(
                f"'{text}' is not a hook point. Write a point and a layer, such as resid_post.9. "
                f"The points are {', '.join(POINTS)}."
            )
        return cls(address.name, address.layer)

    def __str__(self) -> str:
        return f"{self.name}.{self.layer}"

    @property
    def transformer_lens(self) -> str:
        """TransformerLens' name of the point, such as `blocks.9.hook_resid_post`."""
        return str(point_to_tlens_hook(self.name, self.layer))


def _parse(text: str) -> Any:
    """Return interp-engine's address, or None if `text` is not one."""
    try:
        return tlens_hook_to_point(text, _CONTRIBUTIONS) if text.startswith("blocks.") else parse_address(text)
    except (AddressError, UnmappedHook):
        return None
