"""Attribute an output token to features, in steps that are short enough to share the model with other requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from app.errors import Unprocessable
from app.inference.engine import ProbeEngine, counted_tokens
from app.services.inference_messages import (
    AttributeAnswer,
    AttributedEdge,
    AttributedNode,
    AttributeRequest,
    SaeRef,
    TokenChoice,
)
from sae_core.attribution import Attribution, Edges, HookedSAE, Nodes, Target, ablate, attribute, edges
from sae_core.attribution.ablation import rank_correlation, rows_per_pass
from sae_core.attribution.gradient import GRADIENT_TOKENS
from sae_core.models import HookPoint, LanguageModel
from sae_core.saes import SAE

_PREDICTIONS = 10
_GRAPH_NODES = 12
"""Strongest nodes of each SAE that a graph has; each takes a backward pass."""


@dataclass(frozen=True)
class Estimated:
    """Estimates of one request, before the strongest nodes are verified."""

    token_ids: list[int]
    ends: list[int]
    counted: list[bool]
    position: int
    target: Target
    found: Attribution
    nodes: Nodes
    """Those of the answer, strongest first."""
    edges: Edges

    @property
    def read(self) -> Tensor:
        """Token ids up to the position of the target: later ones do not matter."""
        return torch.tensor(self.token_ids[: self.position + 1])


def estimate(engine: ProbeEngine, request: AttributeRequest, between: Callable[[], None]) -> Estimated:
    """Compute the estimates; `between` is called between passes.

    Raises:
        Unprocessable: the text, the position or a token is not valid.
        TooLarge: the text is longer than the limit, or needs more memory than there is.
        Unavailable: the model or an SAE cannot be loaded or run.
    """
    with engine.use(*request.saes) as (model, dictionaries):
        if len({sae.prepend_bos for sae in dictionaries}) > 1:
            raise Unprocessable("One of these SAEs wants BOS before a text and another does not: choose one of them.")
        token_ids = engine.tokenize(model, dictionaries[0], request.text)
        position = _position(request.position, len(token_ids))
        read = torch.tensor(token_ids[: position + 1])
        engine.make_room(_working_bytes(model, dictionaries, len(read)))
        target = _target(model, request, read)
        counted = counted_tokens(model, token_ids)
        hooked = _hooked(request.saes, dictionaries)
        found = attribute(
            model,
            hooked,
            read,
            target,
            counted=counted[: position + 1],
            method=request.method,
            steps=request.steps,
            between=between,
        )
        between()
        nodes, graph = _chosen(found.nodes, len(hooked), request.top)
        of_graph = edges(model, hooked, read, nodes[graph])
        found_edges = Edges(graph[of_graph.sources], graph[of_graph.targets], of_graph.weights, of_graph.kept)
        ends = model.character_ends(request.text, token_ids)
        return Estimated(token_ids, ends, counted.tolist(), position, target, found, nodes, found_edges)


def batches(estimated: Estimated, verify: int) -> list[slice]:
    """Return the nodes to verify, in parts that one turn takes."""
    rows = rows_per_pass(estimated.position + 1)
    last = min(verify, len(estimated.nodes))
    return [slice(start, min(start + rows, last)) for start in range(0, last, rows)]


def verified(
    engine: ProbeEngine, request: AttributeRequest, estimated: Estimated, part: slice
) -> Float64[np.ndarray, " node"]:
    """Return the exact changes of the target when each of these nodes is ablated; raises as `estimate`."""
    with engine.use(*request.saes) as (model, dictionaries):
        nodes, read = estimated.nodes[part], estimated.read
        engine.make_room(4 * (len(nodes) + 1) * (20 * len(read) * model.d_model + 3 * model.vocab_size))
        return ablate(model, _hooked(request.saes, dictionaries), read, estimated.target, nodes)


def answer(estimated: Estimated, changes: Float64[np.ndarray, " verified"]) -> AttributeAnswer:
    """Return the answer of the inference process; `changes` are those of the strongest nodes."""
    found, nodes = estimated.found, estimated.nodes
    probabilities = found.log_probabilities.exp()
    best = found.log_probabilities.topk(min(_PREDICTIONS, len(probabilities))).indices.tolist()
    tokens = [estimated.target.token, *([] if estimated.target.rival is None else [estimated.target.rival])]
    ablations = [*map(_short, changes), *[None] * (len(nodes) - len(changes))]
    return AttributeAnswer(
        token_ids=estimated.token_ids,
        ends=estimated.ends,
        counted=estimated.counted,
        position=estimated.position,
        target=estimated.target.token,
        rival=estimated.target.rival,
        value=_short(found.value),
        predictions=[(token, _short(probabilities[token])) for token in best],
        probabilities=[_short(probabilities[token]) for token in tokens],
        active=len(found.nodes),
        nodes=[
            AttributedNode(
                sae=int(nodes.saes[row]),
                feature=int(nodes.features[row]),
                position=int(nodes.positions[row]),
                activation=_short(nodes.activations[row]),
                attribution=_short(nodes.attributions[row]),
                ablation=ablations[row],
            )
            for row in range(len(nodes))
        ],
        features=[[_short(value) for value in row] for row in found.features],
        errors=[[_short(value) for value in row] for row in found.errors],
        explained=found.explained,
        rank_correlation=rank_correlation(nodes.attributions[: len(changes)], changes),
        edges=[
            AttributedEdge(source=int(source), target=int(target), weight=_short(weight))
            for source, target, weight in zip(
                estimated.edges.sources, estimated.edges.targets, estimated.edges.weights, strict=True
            )
        ],
        edges_kept=estimated.edges.kept,
    )


def _short(value: "float | Float[Tensor, '']") -> float:
    """Round to the 7 digits that a float32 holds."""
    return float(f"{float(value):.7g}")


def _position(asked: int | None, tokens: int) -> int:
    position = tokens - 1 if asked is None else asked
    if not 0 <= position < tokens:
        raise Unprocessable(
            f"The text has no token at position {position}: its positions are 0 to {tokens - 1}. "
            "The target is predicted after the token at its position."
        )
    return position


def _target(model: LanguageModel, request: AttributeRequest, read: Tensor) -> Target:
    rival = None if request.rival is None else _token_id(model, request.rival)
    if request.target is not None:
        token = _token_id(model, request.target)
    else:
        with torch.no_grad():
            best = model.last_logits(read[None], {})[0].topk(2).indices.tolist()
        token = best[1] if best[0] == rival else best[0]
    if token == rival:
        raise Unprocessable("The token and its rival are the same: choose two tokens, or no rival.")
    return Target(token, rival)


def _token_id(model: LanguageModel, choice: TokenChoice) -> int:
    """Return the id of a token.

    Raises:
        Unprocessable: the vocabulary does not have it, or its text is several tokens.
    """
    if choice.id is not None:
        if choice.id >= len(model.token_bytes()):
            raise Unprocessable(f"There is no token {choice.id}: the vocabulary ends at {model.vocab_size - 1}.")
        return choice.id
    token_ids = model.tokenize(choice.token or "", prepend_bos=False)
    if len(token_ids) != 1:
        raise Unprocessable(
            f"“{choice.token}” is {len(token_ids)} tokens, not one. Give a shorter text, mind the leading space, or "
            "give the token's id."
        )
    return token_ids[0]


def _hooked(refs: Sequence[SaeRef], saes: Sequence[SAE]) -> list[HookedSAE]:
    return [
        HookedSAE(sae, HookPoint.parse(ref.hook), HookPoint.parse(ref.hook_out or ref.hook))
        for ref, sae in zip(refs, saes, strict=True)
    ]


def _chosen(nodes: Nodes, saes: int, top: int) -> tuple[Nodes, np.ndarray]:
    """Return the strongest nodes, with those that the graph has, and the places of these among them."""
    graph = [np.flatnonzero(nodes.saes == sae)[:_GRAPH_NODES] for sae in range(saes if saes > 1 else 0)]
    in_graph = np.concatenate([np.zeros(0, np.int64), *graph])
    chosen = np.union1d(np.arange(min(top, len(nodes))), in_graph).astype(np.int64)
    return nodes[chosen], np.searchsorted(chosen, np.sort(in_graph))


def _working_bytes(model: LanguageModel, saes: Sequence[SAE], tokens: int) -> int:
    """Estimate the memory of a backward pass: some sixty activations per token and layer, and dense features."""
    rows = max(tokens, GRADIENT_TOKENS)
    return 4 * (60 * rows * model.n_layers * model.d_model + 4 * 128 * max(sae.d_sae for sae in saes))
