"""Hook points: where inside a model activations are read or replaced, by interp-engine's names."""

from dataclasses import dataclass

from interp_engine.address import Address, AddressError, parse_address
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
"""Points that exist once per layer and token, as one module's input or output, in the order of the forward pass."""


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
            ModelError: if `text` names no point of a layer.
        """
        try:
            address = tlens_hook_to_point(text) if text.startswith("blocks.") else parse_address(text)
        except (AddressError, UnmappedHook):
            address = Address(name="unknown")
        if address.name not in POINTS or address.layer is None or address.stream is not None:
            raise ModelError(
                f"'{text}' is not a hook point. Write a point and a layer, such as resid_post.9; points: {', '.join(POINTS)}."
            )
        return cls(address.name, address.layer)

    def __str__(self) -> str:
        return f"{self.name}.{self.layer}"

    @property
    def transformer_lens(self) -> str:
        """TransformerLens' name of the point, such as `blocks.9.hook_resid_post`."""
        return str(point_to_tlens_hook(self.name, self.layer))
