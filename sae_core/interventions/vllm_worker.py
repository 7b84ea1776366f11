"""What runs inside vLLM's workers: interp-engine's methods, and interventions that depend on the SAE's encoding.

interp-engine's own steering adds fixed vectors. Here its hook for a point, in which it would add one, computes
`Site.change` instead, from the activations that it is given. Requests come one at a time, and a text in one piece.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from interp_engine.vllm_plugin import InterpWorkerExtension
from torch import Tensor

from sae_core.interventions.ops import Site
from sae_core.interventions.site_json import site_from_json
from sae_core.interventions.tokens import PassTokens
from sae_core.models import HookPoint

WORKER = f"{__name__}.SteeringWorker"
"""For vLLM's `worker_extension_cls`."""


@dataclass(frozen=True)
class _Step:
    """A site, and the tokens of the text that each of its interventions acts on."""

    site: Site
    acts: list[Tensor]


class SteeringWorker(InterpWorkerExtension):  # type: ignore[misc]
    """Mixed into vLLM's worker: `self` is the worker. vLLM calls these methods by name."""

    def hold_changes(self, key: str, content: str) -> None:
        """Keep sites, on the model's device, until `drop_changes`."""
        device = next(self.model_runner.model.parameters()).device
        sites = [site_from_json(site) for site in json.loads(content)]
        held = [site if site.sae is None else replace(site, sae=site.sae.to(device)) for site in sites]
        self._seesae().held[key] = held

    def drop_changes(self, key: str) -> None:
        """Forget sites."""
        self._seesae().held.pop(key, None)

    def plan_changes(self, content: str) -> None:
        """Do this to the next text: `runs` (first position, end, key, prompt's length), sparing `special` tokens.

        What is done at the hook point `before`, if one is named, is left out.
        """
        self._seesae().plan = json.loads(content)

    def register_capture(self, req_id: str, points: list[str]) -> None:
        """Change the text as planned, and capture as interp-engine does."""
        state = self._seesae()
        plan, state.plan = state.plan, None
        if plan is not None:
            self._register_changes(req_id, plan)
        super().register_capture(req_id, points)

    def collect_request(self, req_id: str) -> dict[str, tuple[Any, ...]]:
        """Return what was captured, as interp-engine does, and remove the changes."""
        captured: dict[str, tuple[Any, ...]] = super().collect_request(req_id)
        if req_id in self._np_demux.steer_mods:
            self.unregister_steering(req_id)
        state = self._seesae()
        problem, state.problem = state.problem, None
        if problem is not None:
            raise RuntimeError(problem)
        return captured

    def _seesae(self) -> "_State":
        state: _State = self.__dict__.setdefault("_seesae_state", _State())
        return state

    def _register_changes(self, req_id: str, plan: dict[str, Any]) -> None:
        state, tokens = self._seesae(), len(plan["special"])
        device = next(self.model_runner.model.parameters()).device
        positions = torch.arange(tokens, device=device)
        special = torch.tensor(plan["special"], device=device)
        steps: defaultdict[HookPoint, list[_Step]] = defaultdict(list)
        for first, end, key, prompt_length in plan["runs"]:
            there = PassTokens(positions, special, positions >= prompt_length)
            within = (positions >= first) & (positions < end)
            for site in state.held[key]:
                acts = [change.acts_on(there) & within for change in site.interventions]
                steps[site.write or site.hook].append(_Step(site, acts))
        hooks = [hook for hook in steps if str(hook) != plan["before"]]
        if not hooks:
            return
        # Nothing is added by these: they make interp-engine install its hooks, whose functions are replaced below.
        empty = [{"layer": hook.layer, "point": hook.name, "vector": [0.0], "coeff": 0.0} for hook in hooks]
        self.register_steering(req_id, empty, [], tokens, True)
        registered = self._np_demux.steer_mods[req_id]
        for address, (_, *scope) in registered.items():
            function = _change(steps[HookPoint(address.name, address.layer)], tokens, state)
            registered[address] = (function, *scope)


class _State:
    """Of one worker."""

    def __init__(self) -> None:
        self.held: dict[str, list[Site]] = {}
        self.plan: dict[str, Any] | None = None
        self.problem: str | None = None
        """Why the text was not changed as planned; raised once it has run, because a hook that raises ends vLLM."""


def _change(steps: list[_Step], tokens: int, state: _State) -> Callable[[Tensor], Tensor]:
    """Return the function that computes what interp-engine's hook adds to the activations of a text."""

    def change(activations: Tensor) -> Tensor:
        if len(activations) != tokens:
            state.problem = f"vLLM ran {len(activations)} tokens at once, and not the {tokens} of the text."
            return torch.zeros_like(activations)
        changed = activations
        for step in steps:
            rows = torch.stack(step.acts).any(dim=0).nonzero().squeeze(1)
            if len(rows):
                own = changed[rows].float()
                added = step.site.change(own, own, [mask[rows] for mask in step.acts])
                changed = changed.index_copy(0, rows, (own + added).to(changed.dtype))
        return changed - activations

    return change
