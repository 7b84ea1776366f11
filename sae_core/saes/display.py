"""An SAE as a line of text, and as a table in a notebook."""

import html
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from sae_core.saes.config import SAEConfig


class Display(nn.Module):
    """A module that shows its sizes and its origin."""

    architecture: ClassVar[str]
    config: SAEConfig
    metadata: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for name, value in self._facts().items()
        )
        kind = "sparse autoencoder" if self.config.d_out is None else "transcoder"
        return f"<table><caption>{self.architecture} {kind}</caption>{rows}</table>"

    def _facts(self) -> dict[str, Any]:
        """Sizes, and the model and hook points where they are known."""
        sizes = {name: getattr(self.config, name, None) for name in ("d_in", "d_sae", "d_out", "k")}
        origin = {"model": "model_name", "hook": "hook_name", "hook_out": "hook_name_out"}
        parameters = list(self.parameters())
        return {
            **{name: size for name, size in sizes.items() if size is not None},
            **{name: self.metadata[key] for name, key in origin.items() if self.metadata.get(key)},
            "parameters": f"{sum(parameter.numel() for parameter in parameters):,}",
            "device": str(parameters[0].device),
        }
