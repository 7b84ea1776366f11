"""What is done to features and directions.

With the feature activations f = encode(x) at a hook point, an intervention changes one of them from f to f′:

    x → x + (f′ − f) W_dec[feature]

Only that feature's share changes: the error term x − x̂ stays, so an intervention that changes nothing leaves x as it
is. `add` adds value · W_dec[feature] in the model's own units. A direction v can be added (x + value · v), or scaled
along its unit vector: x + (value − 1)(x · v̂) v̂, where 0 projects it out; `ablate` is that. Several interventions at one
hook point are computed from the same x, and their changes are summed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.errors import InterventionError
from sae_core.interventions.narrow import narrowed
from sae_core.interventions.tokens import PassTokens
from sae_core.models import HookPoint
from sae_core.saes import SAE

Op = Literal["ablate", "clamp", "scale", "add"]
Part = Literal["all", "prompt", "generated"]
Positions = Part | tuple[int, int] | frozenset[int]
"""A part of the text, a range [from, to), or single positions, counted from the first token, BOS included."""

MAX_VALUE = 1e6
"""No model has activations that are larger; beyond it float32 overflows on the way to the logits."""


@dataclass(frozen=True)
class Intervention:
    """One change of one feature, or of one direction.

    Raises:
        InterventionError: one of the fields makes no sense.
    """

    op: Op
    value: float = 0.0
    """The activation (clamp), the factor (scale), or what is added (add); `ablate` needs none."""
    feature: int | None = None
    direction: Float[Tensor, " d_out"] | None = None
    positions: Positions = "all"
    along: Float[Tensor, " d_out"] | None = None
    """A control: the feature's change goes along this vector instead of its decoder row."""
    special_tokens: bool = False
    """True to act on BOS and other special tokens too: models put huge activations there that mean nothing."""

    def __post_init__(self) -> None:
        if self.op not in get_args(Op):
            raise InterventionError(f"{self.op!r} is no intervention: use {', '.join(get_args(Op))}.")
        if (self.feature is None) == (self.direction is None):
            raise InterventionError("An intervention is about one feature or one direction: give one of the two.")
        if not (math.isfinite(self.value) and abs(self.value) <= MAX_VALUE):
            raise InterventionError(f"The value {self.value:g} is too large: give one within ±{MAX_VALUE:,.0f}.")
        for direction in (self.direction, self.along):
            if direction is not None:
                _check_direction(direction)
        if self.direction is not None and self.op == "clamp":
            raise InterventionError("A direction has no activation to clamp: add it, scale it or ablate it.")
        _check_positions(self.positions)

    def acts_on(self, tokens: PassTokens) -> Bool[Tensor, "batch position"]:
        """Return the tokens of a pass that it acts on; padding never is."""
        there = tokens.positions >= 0
        if not self.special_tokens:
            there = there & ~tokens.special
        match self.positions:
            case "all":
                return there
            case "prompt":
                return there & ~tokens.generated
            case "generated":
                return there & tokens.generated
            case (first, end):
                return there & (tokens.positions >= first) & (tokens.positions < end)
            case _:
                chosen = torch.tensor(sorted(self.positions), device=there.device)
                return there & torch.isin(tokens.positions, chosen)


def _check_direction(direction: Tensor) -> None:
    if direction.ndim != 1 or not direction.isfinite().all() or not direction.any():
        raise InterventionError("A direction is one vector of finite numbers, not all of them zero.")


def _check_positions(positions: Positions) -> None:
    match positions:
        case str():
            if positions not in get_args(Part):
                raise InterventionError(
                    f"{positions!r} are no positions: use {', '.join(get_args(Part))}, a range or positions."
                )
        case (first, end):
            if not 0 <= first < end:
                raise InterventionError(
                    f"[{first}, {end}) is no range of positions: the first is 0, the end beyond it."
                )
        case _:
            if not positions or min(positions) < 0:
                raise InterventionError("Give at least one position; the first is 0.")


@dataclass(frozen=True)
class Site:
    """A hook point, and the interventions there.

    Raises:
        InterventionError: they do not fit the SAE, or contradict each other.
    """

    hook: HookPoint
    """Where the SAE reads."""
    interventions: Sequence[Intervention]
    sae: SAE | None = None
    """In its inference form; None for directions alone."""
    write: HookPoint | None = None
    """Where the change is added, if that is another point: a transcoder writes at the one that it reconstructs."""

    def __post_init__(self) -> None:
        if not self.interventions:
            raise InterventionError(f"There is nothing to do at {self.hook}: give at least one intervention.")
        features = [change for change in self.interventions if change.feature is not None]
        if self.sae is None and features:
            raise InterventionError("An intervention on a feature needs the SAE.")
        ops: dict[int, str] = {}
        for change in features:
            assert self.sae is not None
            assert change.feature is not None
            if not 0 <= change.feature < self.sae.d_sae:
                raise InterventionError(
                    f"There is no feature {change.feature}: the SAE's features are 0 to {self.sae.d_sae - 1}."
                )
            if ops.setdefault(change.feature, change.op) != change.op:
                both = f"{ops[change.feature]} and {change.op}"
                raise InterventionError(f"Feature {change.feature} has two interventions, {both}. Choose one.")
        if self.sae is None:
            return
        if self.sae.is_transcoder and self.write is None:
            raise InterventionError("A transcoder writes at another hook point than it reads: name it.")
        for change in self.interventions:
            for direction in (change.direction, change.along):
                if direction is not None and len(direction) != self.sae.d_out:
                    raise InterventionError(
                        f"The direction has {len(direction)} dimensions, and the model {self.sae.d_out} there."
                    )

    @cached_property
    def encoded(self) -> list[int]:
        """The features whose activations it takes to know the change, in order; `add` needs none."""
        read = {change.feature for change in self.interventions if change.op != "add" and change.feature is not None}
        return sorted(read)

    @cached_property
    def _encoder(self) -> tuple[SAE, dict[int, int]]:
        assert self.sae is not None
        return narrowed(self.sae, self.encoded)

    def change(
        self,
        x: Float[Tensor, "token d_in"],
        written: Float[Tensor, "token d_out"],
        acts: Sequence[Bool[Tensor, " token"]],
    ) -> Float[Tensor, "token d_out"]:
        """Return what to add at the point that is written.

        Args:
            x: activations that the SAE reads.
            written: activations at the point that is written; `x` itself where the two are one.
            acts: for each intervention, the tokens that it acts on.
        """
        total = torch.zeros_like(written)
        encoded = None
        for change, tokens in zip(self.interventions, acts, strict=True):
            if change.direction is not None:
                delta = _direction_change(change, written)
            else:
                assert self.sae is not None
                assert change.feature is not None
                direction = (self.sae.W_dec[change.feature] if change.along is None else change.along).to(written)
                if change.op == "add":
                    delta = (change.value * direction).expand_as(written)
                else:
                    encoder, row_of = self._encoder
                    encoded = encoder.encode(x) if encoded is None else encoded
                    f = encoded[:, row_of[change.feature]]
                    delta = self.sae.scale_back(changed_activation(change, f) - f, x)[:, None] * direction
            total = total + torch.where(tokens[:, None], delta, 0)
        return total


def changed_activation(change: Intervention, f: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Return f′, the feature's activations after the intervention."""
    match change.op:
        case "ablate":
            return torch.zeros_like(f)
        case "clamp":
            return torch.full_like(f, change.value)
        case "scale":
            return change.value * f
        case "add":
            return f + change.value


def _direction_change(change: Intervention, x: Float[Tensor, "token d_out"]) -> Float[Tensor, "token d_out"]:
    assert change.direction is not None
    direction = change.direction.to(x)
    if change.op == "add":
        return (change.value * direction).expand_as(x)
    unit = direction / torch.linalg.vector_norm(direction)
    factor = 0.0 if change.op == "ablate" else change.value
    along: Tensor = (factor - 1) * (x @ unit)[:, None] * unit
    return along
