"""Ablate each feature where it is active, and random features of equal mass at the same tokens."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import log_softmax

from sae_core.effects.held_out import HeldOut, Window
from sae_core.effects.upper import UpperLayers
from sae_core.progress import Progress, silent

BANDS = 5
NEAREST = 8
"""A control is drawn from this many active features whose mass is nearest."""
BATCH_POSITIONS = 1024
"""Positions that the upper layers read at once."""
LOGIT_ROWS = 256
"""Rows of logits that are compared at once."""


@dataclass(frozen=True, kw_only=True)
class EffectConfig:
    """How much is measured for each feature. All of it is part of the result's identity."""

    contexts: int = 24
    """Windows in which a feature is ablated, drawn at random from all in which it is active."""
    window: int = 16
    """Positions of a window."""
    dose_contexts: int = 4
    """Windows, the first of those, in which it is added."""
    doses: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """What is added, as multiples of the feature's strongest activation on the held-out text."""
    top_tokens: int = 10
    replicates: int = 1000
    """Of the bootstrap over sequences."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FeatureEffect:
    """The effect of one feature. KL and losses are in nats per token; intervals are 95 % bootstrap intervals."""

    feature: int
    active: int
    """Held-out tokens on which it is active."""
    contexts: int
    """Windows that were measured."""
    tokens: int
    """Tokens whose predictions were compared: from the first activation of each window to its end."""
    kl: float | None = None
    """Mean KL(clean ‖ ablated) of the next token."""
    delta_loss: float | None = None
    """Mean rise of −log p(next token)."""
    delta_loss_interval: tuple[float, float] | None = None
    control: dict[str, float] = field(default_factory=dict)
    """`kl` and `delta_loss` of the matched controls."""
    ratio: float | None = None
    """KL divided by that of the controls; 1 is chance."""
    interval: tuple[float, float] | None = None
    """Of the ratio; None with fewer than two sequences."""
    by_band: list[dict[str, Any]] = field(default_factory=list)
    dose_response: list[dict[str, Any]] = field(default_factory=list)
    promoted: list[tuple[int, float]] = field(default_factory=list)
    """Token ids whose probability the feature raises where it is active, and by how much on average."""
    suppressed: list[tuple[int, float]] = field(default_factory=list)

    @property
    def used(self) -> bool:
        """True if the whole interval lies above chance."""
        return self.interval is not None and self.interval[0] > 1

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Variant:
    """One change of one window."""

    feature: int
    context: int
    kind: str
    """`ablate`, `control` or `dose N`."""
    window: Window
    positions: Int64[np.ndarray, " changed"]
    change: Float[Tensor, "changed d_out"]
    first: int
    """First position that is compared, from the window's start."""


@dataclass
class _Sums:
    """Sums over the compared tokens of one variant."""

    tokens: int
    scored: int
    kl: float
    delta_loss: float


def measure_effects(
    upper: UpperLayers,
    text: HeldOut,
    features: Sequence[int],
    config: EffectConfig,
    *,
    progress: Progress = silent,
) -> list[FeatureEffect]:
    """Return the effects of some features, in their order.

    A feature's windows, controls and intervals depend on the seed and its number alone. The features are measured
    together, so that each window's clean predictions are computed once.

    Args:
        upper: the model above the point that the SAE writes.
        text: held-out text.
        features: to measure.
        config: how much to measure.
        progress: gets windows done and windows in all.
    """
    drawn = {feature: _draw(text, feature, config) for feature in features}
    blocks: dict[int, dict[int, list[_Variant]]] = defaultdict(lambda: defaultdict(list))
    for feature, windows in drawn.items():
        for variant in _variants(text, feature, windows, config):
            blocks[variant.window.sequence][variant.window.start].append(variant)
    sums: dict[int, dict[str, dict[int, _Sums]]] = {feature: defaultdict(dict) for feature in features}
    raised = {feature: torch.zeros(0) for feature in features}
    total, done = sum(len(variants) for starts in blocks.values() for variants in starts.values()), 0
    progress(0, total)
    for sequence in sorted(blocks):
        ids, activations = text.token_ids[sequence][None], text.activations[sequence][None]
        prefix, logits = upper.begin(ids, activations)
        all_clean = log_softmax(logits, dim=1)
        for start in sorted(blocks[sequence]):
            stop = min(start + config.window, ids.shape[1])
            counted = torch.from_numpy(text.counted[sequence])
            clean = all_clean[start:stop]
            for variants in _batched(blocks[sequence][start], stop - start):
                rows = torch.stack([_compared(counted[start:stop], variant.first) for variant in variants])
                changed = activations[:, start:stop].repeat(len(variants), 1, 1)
                for own, variant in zip(changed, variants, strict=True):
                    own[torch.from_numpy(variant.positions - start)] += variant.change
                logits = upper.logits(
                    ids[:, start:stop].expand(len(variants), -1), changed, prefix=prefix, start=start, rows=rows
                )
                ends = rows.sum(dim=1).cumsum(dim=0).tolist()
                for variant, row, first, end in zip(variants, rows, [0, *ends[:-1]], ends, strict=True):
                    log_p = log_softmax(logits[first:end], dim=1)
                    own = sums[variant.feature][variant.kind]
                    own[variant.context] = _compare(clean, log_p, row, ids[0], counted, start)
                    if variant.kind == "ablate":
                        there = torch.from_numpy(variant.positions - start).to(row.device)
                        kept = torch.isin(row.nonzero()[:, 0], there)
                        gain = (clean[row][kept].exp() - log_p[kept].exp()).sum(dim=0)
                        raised[variant.feature] = (
                            gain if not len(raised[variant.feature]) else raised[variant.feature] + gain
                        )
                done += len(variants)
                progress(done, total)
    return [_effect(text, feature, drawn[feature], sums[feature], raised[feature], config) for feature in features]


def _random(config: EffectConfig, feature: int, use: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, feature, use))


def _draw(text: HeldOut, feature: int, config: EffectConfig) -> list[Window]:
    """Return the windows that are measured, in random order."""
    windows = text.windows(feature, config.window)
    order = _random(config, feature, 0).permutation(len(windows))[: config.contexts]
    return [windows[number] for number in order]


def _variants(text: HeldOut, feature: int, windows: Sequence[Window], config: EffectConfig) -> Iterator[_Variant]:
    random = _random(config, feature, 1)
    direction = text.directions[feature]
    strongest = float(text.values(feature).max(initial=0.0))
    for context, window in enumerate(windows):
        first = int(window.positions[0]) - window.start
        ablation = -torch.from_numpy(window.scaled)[:, None] * direction
        control = torch.stack(
            [
                _control(text, feature, window.sequence, int(position), float(mass), random)
                for position, mass in zip(window.positions, window.scaled * text.lengths[feature], strict=True)
            ]
        )
        yield _Variant(feature, context, "ablate", window, window.positions, ablation, first)
        yield _Variant(feature, context, "control", window, window.positions, control, first)
        if context < config.dose_contexts:
            per_f = float(window.scaled[0] / window.f[0])
            for dose in config.doses:
                added = (dose * strongest * per_f * direction).expand(len(window.positions), -1)
                yield _Variant(feature, context, f"dose {dose:g}", window, window.positions, added, first)


def _control(
    text: HeldOut, feature: int, sequence: int, position: int, mass: float, random: np.random.Generator
) -> Float[Tensor, " d_out"]:
    """Return what ablating another feature on this token takes away, made as long as `mass`.

    It is drawn from the `NEAREST` other features active there whose mass is nearest, or from all of the dictionary
    where no other is active.
    """
    others, masses = text.active_at(sequence, position)
    kept = (others != feature) & (masses > 0)
    others, masses = others[kept], masses[kept]
    if len(others):
        nearest = np.argsort(np.abs(np.log(masses / mass)), kind="stable")[:NEAREST]
        chosen = int(others[nearest[random.integers(len(nearest))]])
    else:
        usable = np.flatnonzero(text.lengths > 0)
        chosen = int(usable[random.integers(len(usable))])
    return -text.directions[chosen] * (mass / float(text.lengths[chosen]))


def _batched(variants: Sequence[_Variant], length: int) -> Iterator[Sequence[_Variant]]:
    size = max(1, BATCH_POSITIONS // length)
    for start in range(0, len(variants), size):
        yield variants[start : start + size]


def _compared(counted: Bool[Tensor, " position"], first: int) -> Bool[Tensor, " position"]:
    """Positions of a window whose predictions are compared: causal, so none before the first change."""
    return counted & (torch.arange(len(counted)) >= first)


def _compare(
    clean: Float[Tensor, "position vocab"],
    log_p: Float[Tensor, "compared vocab"],
    row: Bool[Tensor, " position"],
    token_ids: Int64[Tensor, " text"],
    counted: Bool[Tensor, " text"],
    start: int,
) -> _Sums:
    before = clean[row]
    kl = (before.exp() * (before - log_p)).sum(dim=1)
    places = row.nonzero()[:, 0] + start
    following = torch.clamp(places + 1, max=len(token_ids) - 1)
    scored = (places + 1 < len(token_ids)) & counted[following]
    target = token_ids[following][:, None].to(before.device)
    loss = (before.gather(1, target) - log_p.gather(1, target))[:, 0].cpu()
    return _Sums(len(places), int(scored.sum()), float(kl.double().sum()), float(loss[scored].double().sum()))


def _effect(
    text: HeldOut,
    feature: int,
    windows: Sequence[Window],
    sums: dict[str, dict[int, _Sums]],
    raised: Tensor,
    config: EffectConfig,
) -> FeatureEffect:
    active = len(text.values(feature))
    if not windows:
        return FeatureEffect(feature=feature, active=active, contexts=0, tokens=0)
    ablated, control = _table(sums["ablate"]), _table(sums["control"])
    sequences = np.array([window.sequence for window in windows])
    weights = _weights(sequences, config, feature)
    ratio = weights @ ablated[:, 2] / (weights @ control[:, 2])
    loss = weights @ ablated[:, 3] / np.maximum(weights @ ablated[:, 1], 1)
    changed = int(sum(len(window.positions) for window in windows))
    order = torch.argsort(raised, stable=True)
    top = [(int(token), float(raised[token]) / changed) for token in order.flip(0)[: config.top_tokens]]
    bottom = [(int(token), float(raised[token]) / changed) for token in order[: config.top_tokens]]
    return FeatureEffect(
        feature=feature,
        active=active,
        contexts=len(windows),
        tokens=int(ablated[:, 0].sum()),
        kl=_per(ablated, 2, 0),
        delta_loss=_per(ablated, 3, 1),
        delta_loss_interval=_interval(loss, sequences),
        control={"kl": _per(control, 2, 0), "delta_loss": _per(control, 3, 1)},
        ratio=float(ratio[0]) if np.isfinite(ratio[0]) else None,
        interval=_interval(ratio, sequences),
        by_band=_bands(text, feature, windows, ablated, control),
        dose_response=[
            _dose(dose, _table(sums[f"dose {dose:g}"]), weights[:, : config.dose_contexts], sequences, text, feature)
            for dose in config.doses
        ],
        promoted=[(token, gain) for token, gain in top if gain > 0],
        suppressed=[(token, gain) for token, gain in bottom if gain < 0],
    )


def _table(sums: dict[int, _Sums]) -> Float[np.ndarray, "context 4"]:
    return np.array([[own.tokens, own.scored, own.kl, own.delta_loss] for _, own in sorted(sums.items())])


def _per(table: Float[np.ndarray, "context 4"], what: int, per: int) -> float:
    return float(table[:, what].sum() / max(table[:, per].sum(), 1))


def _weights(sequences: np.ndarray, config: EffectConfig, feature: int) -> Float[np.ndarray, "1+replicate context"]:
    """Return how often the sample (once) and each replicate hold each window: whole sequences are drawn."""
    known, which = np.unique(sequences, return_inverse=True)
    random = _random(config, feature, 2)
    drawn = random.multinomial(len(known), np.full(len(known), 1 / len(known)), size=config.replicates)
    return np.concatenate([np.ones((1, len(sequences))), drawn[:, which]])


def _interval(replicates: np.ndarray, sequences: np.ndarray) -> tuple[float, float] | None:
    values = replicates[1:]
    values = values[np.isfinite(values)]
    if len(np.unique(sequences)) < 2 or len(values) < 0.9 * (len(replicates) - 1):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _bands(
    text: HeldOut, feature: int, windows: Sequence[Window], ablated: np.ndarray, control: np.ndarray
) -> list[dict[str, Any]]:
    """Return the effect by fifth of the feature's activations, of the strongest in each window."""
    edges = np.quantile(text.values(feature), np.linspace(0, 1, BANDS + 1)[1:-1])
    band = np.searchsorted(edges, [window.strongest for window in windows], side="left")
    found = []
    for number in range(BANDS):
        own, others = ablated[band == number], control[band == number]
        if len(own):
            kl, chance = _per(own, 2, 0), _per(others, 2, 0)
            found.append(
                {
                    "band": number + 1,
                    "contexts": len(own),
                    "tokens": int(own[:, 0].sum()),
                    "kl": kl,
                    "delta_loss": _per(own, 3, 1),
                    "control_kl": chance,
                    "ratio": kl / chance if chance > 0 else None,
                }
            )
    return found


def _dose(
    dose: float, table: np.ndarray, weights: np.ndarray, sequences: np.ndarray, text: HeldOut, feature: int
) -> dict[str, Any]:
    own = weights[:, : len(table)]
    with np.errstate(invalid="ignore", divide="ignore"):
        kl = own @ table[:, 2] / (own @ table[:, 0])
    interval = _interval(kl, sequences[: len(table)])
    return {
        "dose": dose,
        "added": dose * float(text.values(feature).max()),
        "kl": _per(table, 2, 0),
        "kl_interval": interval,
        "delta_loss": _per(table, 3, 1),
        "tokens": int(table[:, 0].sum()),
    }
