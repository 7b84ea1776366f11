"""An edit folded into a model's weights, where it is the same affine map of every token at its hook point.

    x → x + Σ (factor − 1)(x · v̂) v̂ + b

At `attn_out` and `mlp_out` the last projection takes it, at `resid_pre.0` the embeddings do, untied from the
unembedding, and at `attn_in`, `z`, `mlp_in` and `mlp_act` all projections that read what is there. `b` alone is also
folded into the residual stream: into the bias of the last projection before the point, or, where what the MLP gives is
normed (Gemma), into a new layer that writes b and nothing else. Nothing else is exact: a norm that reads x · v̂ less is
no linear map, and weights cannot spare BOS.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from sae_core.errors import InterventionError
from sae_core.files import explain_full_disk, make_folder
from sae_core.interventions.apply import intervene
from sae_core.interventions.edits import Edit
from sae_core.interventions.ops import Site
from sae_core.models import HookPoint, LanguageModel
from sae_core.models.readout import TEXT

_TOLERANCE = {"float32": 1e-4}
"""Largest difference of logits, as a share of the largest logit; 16-bit weights are rounded."""


@dataclass(frozen=True)
class Affine:
    """x → x + Σ gain (x · unit) unit + shift."""

    along: Sequence[tuple[float, Float[Tensor, " d_out"]]]
    shift: Float[Tensor, " d_out"] | None

    def linear(self, rows: Float[Tensor, "... d_out"]) -> Float[Tensor, "... d_out"]:
        """Return rows after the map, without the shift."""
        changed = rows.float()
        change = sum((gain * (changed @ unit)[..., None] * unit for gain, unit in self.along), torch.zeros(()))
        return (changed + change).to(rows.dtype)


def export_model(model: LanguageModel, edit: Edit, folder: Path) -> None:
    """Write a model whose weights do what the edit does, with its tokenizer, as `save_pretrained` lays it out.

    Raises:
        InterventionError: the edit cannot be folded exactly, or the folder is there; the message says why.
        ArtifactError: the disk is full.
    """
    refuse_existing(folder)
    folded = fold(model, edit)

    def write(partial: Path) -> None:
        with explain_full_disk(folder.parent):
            folded.save_pretrained(partial)
            model.tokenizer.save_pretrained(partial)

    make_folder(folder, write)


def refuse_existing(folder: Path) -> None:
    """Refuse a folder that is there.

    Raises:
        InterventionError: it is.
    """
    if folder.exists():
        raise InterventionError(f"{folder} is there already. Give the folder another name.")


@torch.no_grad()
def fold(model: LanguageModel, edit: Edit) -> Any:
    """Return a new `transformers` model whose weights do what the edit does.

    Raises:
        InterventionError: it cannot be folded exactly, or is of another model; the message says why.
    """
    edit.check_model(model)
    folding = _Folding(model)
    for site in sorted(edit.sites, key=lambda site: -(site.write or site.hook).layer):  # a new layer renumbers later
        folding.add(site.write or site.hook, affine(site))
    folded = folding.build()
    ids = torch.tensor([model.tokenize(TEXT)], device=model.device)
    with intervene(model, edit.sites):
        expected = model.logits(ids)
    difference = float(
        (folded(input_ids=ids).logits.float() - expected).abs().max() / expected.abs().max().clamp_min(1)
    )
    if not difference <= _TOLERANCE.get(model.dtype, 0.05):
        raise InterventionError(
            f"Folded into the weights of {model.name}, this edit gives other logits (by {difference:.2g} of the "
            "largest): this kind of model is unknown. Use apply_edits instead."
        )
    return folded


def affine(site: Site) -> Affine:
    """Return the map that a site's interventions are.

    Raises:
        InterventionError: they are none; the message says why.
    """
    along: list[tuple[float, Tensor]] = []
    shift = None
    for change in site.interventions:
        if change.positions != "all":
            raise InterventionError(
                "This edit acts at chosen positions, and weights act on every token. Use apply_edits."
            )
        if not change.special_tokens:
            raise InterventionError(
                "This edit spares BOS and other special tokens, and weights cannot. Let it act on them too "
                "(with_special_tokens), or use apply_edits."
            )
        direction = change.direction
        if direction is None and change.op == "add":
            assert site.sae is not None
            assert change.feature is not None
            direction = site.sae.W_dec[change.feature] if change.along is None else change.along
        if direction is None:
            raise InterventionError(
                f"To {change.op} a feature depends on its activation, which is no linear map. Only adding a feature or "
                "a direction and scaling a direction can be folded. Use apply_edits."
            )
        direction = direction.detach().float().cpu()
        if change.op == "add":
            shift = change.value * direction + (0 if shift is None else shift)
        else:
            along.append(((0 if change.op == "ablate" else change.value) - 1, direction / direction.norm()))
    return Affine(along, shift)


class _Folding:
    """A copy of a model's weights and config, in which maps are folded from the last layer to the first."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.config = copy.deepcopy(model.hf_model.config)
        self.state = {name: tensor.detach().cpu() for name, tensor in model.hf_model.state_dict().items()}
        self.name_of = {module: name for name, module in model.hf_model.named_modules()}

    def add(self, hook: HookPoint, change: Affine) -> None:
        """Fold a map in.

        Raises:
            InterventionError: no weight is at the hook point.
        """
        self.model.resolve(hook)
        base, layer = hook.name.removesuffix("_post"), hook.layer
        if base in ("attn_out", "mlp_out") and (
            base == hook.name or self.model.writes_residual(HookPoint(base, layer))
        ):
            self._into_projection("z" if base == "attn_out" else "mlp_act", layer, change)
        elif hook.name in _FLAGS:
            self._into_readers(hook, change)
        elif hook == HookPoint("resid_pre", 0):
            self._into_embeddings(change)
        elif hook.name in ("resid_pre", "resid_post", "mlp_out_post") and not change.along:
            assert change.shift is not None
            self._into_residual(layer - (hook.name == "resid_pre"), change.shift)
        elif change.along and hook.name.startswith("resid_"):
            raise InterventionError(
                f"{hook} is a sum of what the embeddings and earlier layers wrote, so no weight holds it. Scale the "
                "direction at resid_pre.0 and at every attn_out and mlp_out instead, or use apply_edits."
            )
        else:
            raise InterventionError(f"No weight of {self.model.name} gives {hook} as it is. Use apply_edits.")

    def build(self) -> Any:
        """Return the model; biases that it has gained and nothing is folded into are zero."""
        folded = AutoModelForCausalLM.from_config(self.config, dtype=self.model.hf_model.dtype).eval()
        wanted = folded.state_dict()
        zeros = {name: torch.zeros_like(tensor) for name, tensor in wanted.items() if name.endswith(".bias")}
        folded.load_state_dict({**zeros, **self.state})
        folded.generation_config = copy.deepcopy(self.model.hf_model.generation_config)
        return folded.to(self.model.device)

    def _into_projection(self, point: str, layer: int, change: Affine) -> None:
        name, is_transposed = self._projection(point, layer)
        weight = self.state[f"{name}.weight"]
        self.state[f"{name}.weight"] = (
            change.linear(weight) if is_transposed else change.linear(weight.t()).t().contiguous()
        )
        if f"{name}.bias" in self.state:
            self.state[f"{name}.bias"] = change.linear(self.state[f"{name}.bias"])
        if change.shift is not None and not self._add_bias(name, change.shift, _FLAGS[point]):
            raise InterventionError(f"{name} of {self.model.name} cannot have a bias to add to. Use apply_edits.")

    def _into_readers(self, hook: HookPoint, change: Affine) -> None:
        """Let the projections that read a point read it changed: W(Ax + b) is WA, and a bias of Wb."""
        for module in self._readers(hook):
            name, is_transposed = self.name_of[module], isinstance(module, Conv1D)
            weight = self.state[f"{name}.weight"]
            rows = weight.t() if is_transposed else weight
            if change.shift is not None and not self._add_bias(name, rows.float() @ change.shift, _FLAGS[hook.name]):
                raise InterventionError(f"{name} of {self.model.name} cannot have a bias to add to. Use apply_edits.")
            changed = change.linear(rows)
            self.state[f"{name}.weight"] = changed.t().contiguous() if is_transposed else changed

    def _readers(self, hook: HookPoint) -> list[nn.Module]:
        """Return the projections whose input is what a point holds."""
        ids = torch.tensor([self.model.tokenize(TEXT)])
        there = self.model.activations(ids, hook).flatten()
        found: list[nn.Module] = []

        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if args and args[0].numel() == len(there) and torch.equal(args[0].float().flatten(), there):
                found.append(module)

        projections = [module for module in self.name_of if isinstance(module, nn.Linear | Conv1D)]
        handles = [module.register_forward_pre_hook(note) for module in projections]
        try:
            self.model.logits(ids)
        finally:
            for handle in handles:
                handle.remove()
        if not found:
            raise InterventionError(f"No one matrix of {self.model.name} reads {hook}. Use apply_edits.")
        return found

    def _projection(self, point: str, layer: int) -> tuple[str, bool]:
        """Return the name of the projection that reads `point`, and whether its weight is [in, out]."""
        module, side = self.model.resolve(HookPoint(point, layer))
        if side != "input" or not isinstance(module, nn.Linear | Conv1D):
            raise InterventionError(f"{self.model.name} has no one matrix behind {point}.{layer}. Use apply_edits.")
        return self.name_of[module], isinstance(module, Conv1D)

    def _add_bias(self, name: str, shift: Tensor, flag: str) -> bool:
        """Add to a bias, which the model gains by a flag of its config if need be; False if it cannot."""
        bias = f"{name}.bias"
        if bias not in self.state:
            config = copy.deepcopy(self.config)
            setattr(config, flag, True)
            with torch.device("meta"):
                if bias not in AutoModelForCausalLM.from_config(config).state_dict():
                    return False
            self.config = config
        own = self.state.get(bias, torch.zeros(len(shift), dtype=self.state[f"{name}.weight"].dtype))
        self.state[bias] = (own.float() + shift).to(own.dtype)
        return True

    def _into_embeddings(self, change: Affine) -> None:
        """Change token and position embeddings; the unembedding stays."""
        tokens = self.model.hf_model.get_input_embeddings()
        head = self.name_of[self.model.hf_model.get_output_embeddings()]
        self.state[f"{head}.weight"] = self.state[f"{head}.weight"].clone()
        self.config.tie_word_embeddings = False
        for module, name in self.name_of.items():
            if isinstance(module, nn.Embedding):
                self.state[f"{name}.weight"] = change.linear(self.state[f"{name}.weight"])
        if change.shift is not None:
            name = f"{self.name_of[tokens]}.weight"
            own = self.state[name]
            self.state[name] = (own.float() + change.shift / self._embedding_scale()).to(own.dtype)

    def _embedding_scale(self) -> float:
        """Return what the model multiplies its token embeddings by, as Gemma does."""
        ids = torch.tensor([[0, 1]])
        rows = self.model.hf_model.get_input_embeddings().weight[:2].float()
        if sum(isinstance(module, nn.Embedding) for module in self.name_of) > 1:
            return 1.0
        return float((self.model.activations(ids, HookPoint("resid_pre", 0))[0].norm() / rows.norm()).item())

    def _into_residual(self, layer: int, shift: Tensor) -> None:
        """Add to the residual stream after a layer."""
        if self.model.writes_residual(HookPoint("mlp_out", layer)):
            name, _ = self._projection("mlp_act", layer)
            if self._add_bias(name, shift, _FLAGS["mlp_act"]):
                return
        self._insert_layer(layer, shift)

    def _insert_layer(self, layer: int, shift: Tensor) -> None:
        """Add a layer after `layer` whose attention gives a constant, by its last bias, and whose MLP gives zero."""
        attention, _ = self._projection("z", layer)
        mlp, _ = self._projection("mlp_act", layer)
        stem, after = attention.split(f".{layer}.")[0], f".{layer + 1}."
        if not self._add_bias(attention, torch.zeros(len(shift)), _FLAGS["z"]):
            raise InterventionError(
                f"No weight of {self.model.name} adds the same to every token after layer {layer}: its projections "
                "cannot have a bias. Use apply_edits."
            )
        here = f"{stem}.{layer}."
        copied = {name: tensor for name, tensor in self.state.items() if name.startswith(here)}
        moved = {_renumber(name, stem, layer): tensor for name, tensor in self.state.items()}
        new = {name.replace(here, f"{stem}{after}"): tensor.clone() for name, tensor in copied.items()}
        new_attention, new_mlp = (name.replace(here, f"{stem}{after}") for name in (attention, mlp))
        for name in new:
            if name.startswith((f"{new_attention}.", f"{new_mlp}.")):
                new[name] = torch.zeros_like(new[name])
        constant = shift
        norm = self._norm_behind_attention(layer)
        if norm is not None:
            rms = float(shift.square().mean().sqrt())
            constant = shift / rms
            weight = f"{self.name_of[norm]}.weight".replace(here, f"{stem}{after}")
            new[weight] = torch.full_like(new[weight], rms / _gain(norm, constant) - _offset(norm))
        new[f"{new_attention}.bias"] = constant.to(new[f"{new_attention}.bias"].dtype)
        self.state = {**moved, **new}
        self.config.num_hidden_layers += 1
        if getattr(self.config, "layer_types", None):
            types = list(self.config.layer_types)
            self.config.layer_types = [*types[: layer + 1], types[layer], *types[layer + 1 :]]

    def _norm_behind_attention(self, layer: int) -> nn.Module | None:
        if self.model.writes_residual(HookPoint("attn_out", layer)):
            return None
        norm, _ = self.model.resolve(HookPoint("attn_out_post", layer))
        return norm


_FLAGS = {"attn_in": "attention_bias", "z": "attention_bias", "mlp_in": "mlp_bias", "mlp_act": "mlp_bias"}
"""By the point that a projection reads: the flag of a config that gives it a bias."""


def with_special_tokens(edit: Edit) -> Edit:
    """Return the edit acting on BOS and other special tokens too, as weights do."""
    sites = [
        replace(site, interventions=[replace(change, special_tokens=True) for change in site.interventions])
        for site in edit.sites
    ]
    return replace(edit, sites=sites)


def _renumber(name: str, stem: str, layer: int) -> str:
    """Return a weight's name once there is a new layer after `layer`."""
    if not name.startswith(f"{stem}."):
        return name
    number, _, rest = name.removeprefix(f"{stem}.").partition(".")
    return f"{stem}.{int(number) + (int(number) > layer)}.{rest}"


def _offset(norm: nn.Module) -> float:
    """Return what a norm adds to its weight: 1 in Gemma, otherwise 0."""
    plain: Any = copy.deepcopy(norm)
    plain.weight.zero_()
    return 1.0 if plain(torch.ones_like(plain.weight)).any() else 0.0


def _gain(norm: nn.Module, rows: Tensor) -> float:
    """Return how much larger a vector is after a norm of weight 1."""
    plain: Any = copy.deepcopy(norm)
    plain.weight.fill_(1 - _offset(norm))
    rows = rows.to(plain.weight)
    return float(plain(rows).norm() / rows.norm())
