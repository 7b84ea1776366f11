"""An edit: interventions in one JSON file, and the context manager that applies them to a plain `transformers` model.

The file holds all that it takes, so it works where neither the SAE nor the tokenizer is: ids of the special tokens, and
of each SAE the rows of the features concerned. A TopK is held whole, since all its features compete for k places;
`add` needs no encoding, and so no SAE. Numbers are float32, little-endian, in base64.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sae_core.errors import InterventionError, SAEError, first_line
from sae_core.files import write_json
from sae_core.interventions.apply import hooks_on
from sae_core.interventions.ops import Site
from sae_core.interventions.site_json import site_from_json, site_to_json
from sae_core.models import LanguageModel
from sae_core.models.points import find_modules, module_at

FORMAT = "seesae-edit-1"
"""Changes when a file of an older version can no longer be read as it is."""


@dataclass(frozen=True)
class Edit:
    """Interventions on one model."""

    name: str
    sites: Sequence[Site]
    special_token_ids: frozenset[int]
    """BOS and the other special tokens of the model, which interventions spare unless asked."""
    model_name: str = ""
    """Of the model that it was made on."""
    model_sha256: str = ""
    """Hash of that model's weights; empty where it is not known."""
    saes: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the weights of the SAEs that its features are of, by name."""

    @classmethod
    def of(
        cls, name: str, model: LanguageModel, sites: Sequence[Site], *, saes: Mapping[str, str] | None = None
    ) -> "Edit":
        """Return an edit of `model`."""
        bos = {model.bos_token_id} if model.bos_token_id is not None else set()
        return cls(name, sites, model.special_token_ids | bos, model.name, model.weights_sha256, saes or {})

    def sites_on(self, device: torch.device) -> list[Site]:
        """Return its sites, with their SAEs on a device."""
        return [_on_device(site, device) for site in self.sites]

    def check_model(self, model: LanguageModel) -> None:
        """Refuse another model than the edit was made on.

        Raises:
            InterventionError: its weights have another hash.
        """
        if self.model_sha256 and model.weights_sha256 != self.model_sha256:
            raise InterventionError(
                f"The edit {self.name!r} was made on {self.model_name} with other weights than {model.name} has "
                f"(SHA-256 {self.model_sha256[:12]}…, not {model.weights_sha256[:12]}…). Give the model that it is of."
            )


@contextmanager
def apply_edits(hf_model: Any, *edits: Edit | str | Path) -> Iterator[None]:
    """Change every forward pass of a plain `transformers` model in the body, `generate` included.

    The hooks are removed whatever happens there. Tokens of a pass with an empty cache are the prompt.

        model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M")
        with apply_edits(model, "edit.json"):
            model.generate(**tokenizer("The capital of France is", return_tensors="pt"))

    Args:
        hf_model: a causal language model; one of `load_model` knows the hash of its weights, which is then compared.
        edits: edits, or their files.

    Raises:
        InterventionError: a file is no edit, or does not fit the model.
        ModelError: the model lacks a hook point.
    """
    loaded = [edit if isinstance(edit, Edit) else load_edit(edit) for edit in edits]
    if isinstance(hf_model, LanguageModel):
        for edit in loaded:
            edit.check_model(hf_model)
        hf_model = hf_model.hf_model
    eager, name = find_modules(hf_model), type(hf_model).__name__
    sites = [site for edit in loaded for site in edit.sites_on(eager.device)]
    special = frozenset[int]().union(*(edit.special_token_ids for edit in loaded))
    with hooks_on(hf_model, lambda hook: module_at(eager, hook, name), sites, special, None):
        yield


def _on_device(site: Site, device: torch.device) -> Site:
    return site if site.sae is None or device.type == "cpu" else replace(site, sae=deepcopy(site.sae).to(device))


# Files


def save_edit(edit: Edit, path: str | Path) -> None:
    """Write an edit to a file.

    Raises:
        ArtifactError: the disk is full.
    """
    write_json(Path(path), edit_to_json(edit))


def load_edit(path: str | Path) -> Edit:
    """Read an edit from a file.

    Raises:
        InterventionError: there is no such file, or it is no edit.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InterventionError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except ValueError:
        raise InterventionError(f"{path} is no JSON. Give the file of an edit.") from None
    return edit_from_json(content, str(path))


def edit_to_json(edit: Edit) -> dict[str, Any]:
    """Return what the file of an edit holds."""
    return {
        "format": FORMAT,
        "name": edit.name,
        "model": edit.model_name,
        "model_sha256": edit.model_sha256,
        "saes": dict(edit.saes),
        "special_token_ids": sorted(edit.special_token_ids),
        "sites": [site_to_json(site) for site in edit.sites],
    }


def edit_from_json(content: Any, source: str) -> Edit:
    """Return the edit that `edit_to_json` wrote; `source` names it in messages.

    Raises:
        InterventionError: it is no edit.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InterventionError(f"{source} is no edit of the format {FORMAT}. Save the edit again, with this version.")
    try:
        special = frozenset(int(token_id) for token_id in content["special_token_ids"])
        sites = [site_from_json(site) for site in content["sites"]]
        saes = {str(name): str(sha256) for name, sha256 in content.get("saes", {}).items()}
        return Edit(
            str(content["name"]), sites, special, str(content["model"]), str(content.get("model_sha256", "")), saes
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SAEError) as error:
        raise InterventionError(f"{source} is a damaged edit: {type(error).__name__}, {first_line(error)}.") from error
