"""What an edit changes besides: on text, on unrelated prompts and on facts, each beside matched controls.

On text, interventions on the prompt alone or on new tokens alone act on all of it, because any of it may be either.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import log_softmax

from sae_core.interventions import Site, intervene
from sae_core.models import LanguageModel

ROWS = 64
"""Positions whose distributions are compared at once."""

Sites = Sequence[Site]


@dataclass(frozen=True)
class TextChange:
    """Sums over the counted tokens of one text. The first variant is the edit, the others are controls."""

    tokens: int
    """Tokens after which predictions are compared."""
    scored: int
    """Those whose next token is counted too: the loss is about these."""
    loss: float
    """Of the model as it is, in nats, summed."""
    kl: tuple[float, ...]
    """KL(model ‖ variant), summed, for each variant."""
    rise: tuple[float, ...]
    """Rise of the loss, summed, for each variant."""
    top_changed: tuple[bool, ...]
    """For each variant: the likeliest token after the whole text is another one."""


@torch.no_grad()
def change_of_text(
    model: LanguageModel,
    token_ids: Sequence[int],
    counted: Bool[np.ndarray, " position"],
    variants: Sequence[Sites],
) -> tuple[TextChange, Float[np.ndarray, "variant vocab"]]:
    """Return what each variant changes on one text, and the summed change of each token's probability."""
    ids = torch.tensor([list(token_ids)])
    row = torch.from_numpy(counted)
    places = row.nonzero()[:, 0]
    clean = model.logits(ids)[0][row.to(model.device)].float()
    following = ids[0][(places + 1).clamp(max=ids.shape[1] - 1)]
    scored = (places + 1 < ids.shape[1]) & row[(places + 1).clamp(max=ids.shape[1] - 1)]
    loss = _loss(clean, following, scored)
    kl, rise, top, moved = [], [], [], []
    for sites in variants:
        with intervene(model, everywhere(sites)):
            changed = model.logits(ids)[0][row.to(model.device)].float()
        divergence, gain = _compare(clean, changed)
        kl.append(divergence)
        rise.append(_loss(changed, following, scored) - loss)
        top.append(bool(len(clean)) and int(clean[-1].argmax()) != int(changed[-1].argmax()))
        moved.append(gain)
    found = TextChange(len(places), int(scored.sum()), loss, tuple(kl), tuple(rise), tuple(top))
    return found, np.stack(moved)


def everywhere(sites: Sites) -> list[Site]:
    """Return sites whose interventions on a part of the text act on all of it."""
    return [
        replace(
            site,
            interventions=[
                replace(change, positions="all") if isinstance(change.positions, str) else change
                for change in site.interventions
            ],
        )
        for site in sites
    ]


def _loss(logits: Float[Tensor, "token vocab"], following: Tensor, scored: Bool[Tensor, " token"]) -> float:
    total = 0.0
    for start in range(0, len(logits), ROWS):
        part = slice(start, start + ROWS)
        log_p = log_softmax(logits[part], dim=1)
        own = log_p.gather(1, following[part, None].to(log_p.device))[:, 0]
        total -= float(own[scored[part].to(own.device)].double().sum())
    return total


def _compare(
    clean: Float[Tensor, "token vocab"], changed: Float[Tensor, "token vocab"]
) -> tuple[float, Float[np.ndarray, " vocab"]]:
    divergence = 0.0
    gain = torch.zeros(clean.shape[1], device=clean.device)
    for start in range(0, len(clean), ROWS):
        before, after = (log_softmax(side[start : start + ROWS], dim=1) for side in (clean, changed))
        divergence += float((before.exp() * (before - after)).sum(dim=1).double().sum())
        gain += (after.exp() - before.exp()).sum(dim=0)
    return divergence, gain.cpu().numpy()


@dataclass(frozen=True)
class Fact:
    """A prompt with the continuation that is expected, and one that is not."""

    prompt: str
    expected: str
    forbidden: str | None = None


@dataclass(frozen=True)
class FactChange:
    """Probabilities of both continuations: of the model as it is, then of each variant."""

    expected: tuple[float, ...]
    forbidden: tuple[float, ...] | None
    holds: tuple[bool, ...]
    """The expected one is likelier than the forbidden one; without one, it is what the model would write."""


@torch.no_grad()
def change_of_fact(
    model: LanguageModel, fact: Fact, variants: Sequence[Sites], *, prepend_bos: bool = True
) -> FactChange:
    """Return what each variant does to a fact."""
    sides: list[list[tuple[float, bool]]] = []
    for continuation in (fact.expected, fact.forbidden):
        if continuation is not None:
            prompt, target = continued(model, fact.prompt, continuation, prepend_bos=prepend_bos)
            sides.append([_probability(model, prompt, target, sites) for sites in (None, *variants)])
    expected = tuple(p for p, _ in sides[0])
    if fact.forbidden is None:
        return FactChange(expected, None, tuple(greedy for _, greedy in sides[0]))
    forbidden = tuple(p for p, _ in sides[1])
    return FactChange(expected, forbidden, tuple(one > other for one, other in zip(expected, forbidden, strict=True)))


def continued(
    model: LanguageModel, prompt: str, continuation: str, *, prepend_bos: bool = True
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of its continuation, with a space between them where there is none."""
    if not prompt[-1:].isspace() and not continuation[:1].isspace() and continuation[:1].isalnum():
        continuation = " " + continuation
    before = model.tokenize(prompt, prepend_bos=prepend_bos)
    whole = model.tokenize(prompt + continuation, prepend_bos=prepend_bos)
    if whole[: len(before)] == before and len(whole) > len(before):
        return before, whole[len(before) :]
    return before, model.tokenize(continuation, prepend_bos=False)


def _probability(
    model: LanguageModel, prompt: Sequence[int], target: Sequence[int], sites: Sites | None
) -> tuple[float, bool]:
    """Return the probability of a continuation, and whether the model would write it by taking the likeliest tokens."""
    ids = torch.tensor([[*prompt, *target]])
    with intervene(model, sites, prompt_length=len(prompt)) if sites else nullcontext():
        logits = model.logits(ids)[0, len(prompt) - 1 : -1].float()
    log_p = log_softmax(logits, dim=1)
    wanted = torch.tensor(list(target), device=log_p.device)
    own = log_p.gather(1, wanted[:, None]).double().sum()
    return float(own.exp()), bool((log_p.argmax(dim=1) == wanted).all())


# Summaries


def summarise_texts(changes: Sequence[TextChange], *, replicates: int, seed: int, tops: bool = False) -> dict[str, Any]:
    """Return means per token with 95 % bootstrap intervals over texts; a control is the mean of all controls.

    Args:
        changes: of the texts.
        replicates: of the bootstrap.
        seed: of the bootstrap.
        tops: add the share of texts after which the likeliest token is another one.
    """
    weights = _weights(len(changes), replicates, seed)
    tokens = weights @ np.array([change.tokens for change in changes], dtype=float)
    scored = np.maximum(weights @ np.array([change.scored for change in changes], dtype=float), 1)
    kl, rise = (np.array([getattr(change, name) for change in changes]) for name in ("kl", "rise"))
    own, chance = weights @ kl[:, 0], weights @ kl[:, 1:].mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = own / chance
    found: dict[str, Any] = {
        "texts": len(changes),
        "tokens": int(tokens[0]),
        "loss": float(sum(change.loss for change in changes) / scored[0]),
        "kl": {"edit": _figure(own / tokens), "control": _figure(chance / tokens), "ratio": _figure(ratio)},
        "rise": {
            "edit": _figure(weights @ rise[:, 0] / scored),
            "control": _figure(weights @ rise[:, 1:].mean(axis=1) / scored),
        },
    }
    if tops:
        top = np.array([change.top_changed for change in changes], dtype=float)
        found["top_changed"] = {
            "edit": _figure(weights @ top[:, 0] / len(changes)),
            "control": _figure(weights @ top[:, 1:].mean(axis=1) / len(changes)),
        }
    return found


def summarise_facts(changes: Sequence[FactChange], *, replicates: int, seed: int) -> dict[str, Any]:
    """Return mean probabilities and the share of facts that hold: as the model is, with the edit, and with controls."""
    weights = _weights(len(changes), replicates, seed) / len(changes)

    def three(values: np.ndarray) -> dict[str, Any]:
        columns = {"before": values[:, 0], "edit": values[:, 1], "control": values[:, 2:].mean(axis=1)}
        return {name: _figure(weights @ column) for name, column in columns.items()}

    both = [change for change in changes if change.forbidden is not None]
    found: dict[str, Any] = {
        "prompts": len(changes),
        "expected": three(np.array([change.expected for change in changes])),
        "holds": three(np.array([change.holds for change in changes], dtype=float)),
        "forbidden": None,
    }
    if len(both) == len(changes):
        found["forbidden"] = three(np.array([change.forbidden for change in both]))
    return found


def moved_tokens(
    moved: Float[np.ndarray, "variant vocab"], tokens: int, top: int
) -> dict[str, list[tuple[int, float, float]]]:
    """Return the tokens that the edit makes likelier and less likely: id, mean change of the probability per token of
    text, and that of the controls.
    """
    per = moved / max(tokens, 1)
    own, chance = per[0], per[1:].mean(axis=0)
    order = np.argsort(own, kind="stable")

    def listed(ids: np.ndarray, sign: int) -> list[tuple[int, float, float]]:
        return [(int(token), float(own[token]), float(chance[token])) for token in ids if sign * own[token] > 0]

    return {"gained": listed(order[::-1][:top], 1), "lost": listed(order[:top], -1)}


def _weights(texts: int, replicates: int, seed: int) -> Float[np.ndarray, "1+replicate text"]:
    """Return how often the sample (once) and each replicate hold each text; one text alone has no replicates."""
    if texts < 2:
        return np.ones((1, texts))
    drawn = np.random.default_rng(seed).multinomial(texts, np.full(texts, 1 / texts), size=replicates)
    return np.concatenate([np.ones((1, texts)), drawn])


def _figure(values: Float[np.ndarray, " 1+replicate"]) -> dict[str, Any]:
    """Return the sample's own value and the 95 % interval of the replicates, None where there are none."""
    value = float(values[0])
    finite = values[1:][np.isfinite(values[1:])]
    low_high = None
    if len(finite) and len(finite) >= 0.9 * (len(values) - 1):
        low, high = np.percentile(finite, [2.5, 97.5])
        low_high = [float(low), float(high)]
    return {"value": value if np.isfinite(value) else None, "interval": low_high}
