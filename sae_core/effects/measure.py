"""Ablate each feature where it is active, and random features of equal mass at the same tokens."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import log_softmax

from sae_core.effects.held_out import HeldOut, Window
from sae_core.effects.upper import Prefix, UpperLayers
from sae_core.progress import Progress, silent

T = TypeVar("T")

BANDS = 5
NEAREST = 8
"""A control is drawn from this many active features whose mass is nearest."""
BATCH_POSITIONS = 1024
"""Positions that the upper layers read at once."""
GROUP_BYTES = 512 << 20
"""Keys, values and last hidden states of texts that are held at once."""


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
    """One change of one window: `factors[i]` times the decoder row of `sources[i]` is added at `positions[i]`."""

    feature: int
    context: int
    kind: str
    """`ablate`, `control` or `dose N`."""
    window: Window
    sources: Int64[np.ndarray, " active"]
    factors: Float32[np.ndarray, " active"]

    @property
    def start(self) -> int:
        """First position that is changed: causal, so none before it differs."""
        return int(self.window.positions[0])


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

    A feature's windows, controls and intervals depend on the seed and its number alone. Changes of all features and
    texts that begin at the same position share a pass, because a pass costs less per row the more rows it has.

    Args:
        upper: the model above the point that the SAE writes.
        text: held-out text.
        features: to measure.
        config: how much to measure.
        progress: gets windows done and windows in all.
    """
    drawn = {feature: _draw(text, feature, config) for feature in features}
    variants = [own for feature, windows in drawn.items() for own in _variants(text, feature, windows, config)]
    sums: dict[int, dict[str, dict[int, _Sums]]] = {feature: defaultdict(dict) for feature in features}
    raised = {feature: torch.zeros(0) for feature in features}
    done = 0
    progress(0, len(variants))
    for texts, group in _groups(upper, text, variants):
        prefix, hidden = upper.begin(text.token_ids[texts], text.activations[texts])
        for batch in _batches(group, config.window):
            for variant, found, gain in _compare_batch(upper, text, texts, prefix, hidden, batch, config.window):
                sums[variant.feature][variant.kind][variant.context] = found
                if gain is not None:
                    before = raised[variant.feature]
                    raised[variant.feature] = before + gain if len(before) else gain
            done += len(batch)
            progress(done, len(variants))
    return [_effect(text, feature, drawn[feature], sums[feature], raised[feature], config) for feature in features]


def _groups(
    upper: UpperLayers, text: HeldOut, variants: Sequence[_Variant]
) -> Iterator[tuple[Int64[Tensor, " text"], list[_Variant]]]:
    """Yield groups of texts of which `GROUP_BYTES` are kept, and the variants of each."""
    by_text: dict[int, list[_Variant]] = defaultdict(list)
    for variant in variants:
        by_text[variant.window.sequence].append(variant)
    size = upper.bytes_per_token(text.token_ids, text.activations) * text.token_ids.shape[1]
    for texts in _split(sorted(by_text), max(1, GROUP_BYTES // size)):
        yield torch.tensor(texts), [variant for number in texts for variant in by_text[number]]


def _batches(variants: Sequence[_Variant], window: int) -> Iterator[Sequence[_Variant]]:
    """Yield variants that begin at the same position, and so end at the same one, whatever their texts are."""
    by_start: dict[int, list[_Variant]] = defaultdict(list)
    for variant in variants:
        by_start[variant.start].append(variant)
    for start, own in sorted(by_start.items()):
        yield from _split(own, max(1, BATCH_POSITIONS // (window - start % window)))


def _split(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _compare_batch(
    upper: UpperLayers,
    text: HeldOut,
    texts: Int64[Tensor, " text"],
    prefix: Prefix,
    hidden: Float[Tensor, "text position d_head"],
    batch: Sequence[_Variant],
    window: int,
) -> Iterator[tuple[_Variant, _Sums, Float[Tensor, " vocab"] | None]]:
    """Yield each variant, its sums, and what ablation takes from each token's probability where the feature is active.

    What is predicted without a change is unembedded once per text of the batch.
    """
    start = batch[0].start
    span = slice(start, batch[0].window.start + window)
    numbers = torch.tensor([variant.window.sequence for variant in batch])
    rows = torch.from_numpy(text.counted[numbers.numpy(), span])
    changed = text.activations[numbers, span]
    for own, variant in zip(changed, batch, strict=True):
        places = torch.from_numpy(variant.window.positions - start)
        own[places] += torch.from_numpy(variant.factors)[:, None] * text.directions[torch.from_numpy(variant.sources)]
    logits = upper.logits(
        text.token_ids[numbers, span],
        changed,
        prefix=prefix,
        texts=torch.searchsorted(texts, numbers),
        start=start,
        rows=rows,
    )
    used = torch.unique_consecutive(numbers)
    used_rows = torch.from_numpy(text.counted[used.numpy(), span])
    unchanged = upper.unembed(hidden[torch.searchsorted(texts, used), span][used_rows.to(hidden.device)])
    unchanged_of = dict(zip(used.tolist(), _by_row(unchanged, used_rows), strict=True))
    changes = zip(batch, _by_row(logits, rows), strict=True)
    for number, own_changes in groupby(changes, key=lambda change: change[0].window.sequence):
        places = torch.from_numpy(text.counted[number, span]).nonzero()[:, 0] + start
        clean = log_softmax(unchanged_of[number], dim=1)
        p = clean.exp()
        for variant, own in own_changes:
            log_p = log_softmax(own, dim=1)
            found = _compare(clean, p, log_p, places, text.token_ids[number], text.counted[number])
            gain = None
            if variant.kind == "ablate":
                active = torch.from_numpy(np.isin(places.numpy(), variant.window.positions)).to(p.device)
                gain = (p[active] - log_p[active].exp()).sum(dim=0)
            yield variant, found, gain


def _by_row(logits: Float[Tensor, "compared vocab"], rows: Bool[Tensor, "row position"]) -> tuple[Tensor, ...]:
    return torch.split(logits, rows.sum(dim=1).tolist())


def _random(config: EffectConfig, feature: int, use: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, feature, use))


def _draw(text: HeldOut, feature: int, config: EffectConfig) -> list[Window]:
    """Return the windows that are measured, in random order."""
    windows = text.windows(feature, config.window)
    order = _random(config, feature, 0).permutation(len(windows))[: config.contexts]
    return [windows[number] for number in order]


def _variants(text: HeldOut, feature: int, windows: Sequence[Window], config: EffectConfig) -> Iterator[_Variant]:
    random = _random(config, feature, 1)
    strongest = float(text.values(feature).max(initial=0.0))
    for context, window in enumerate(windows):
        masses = window.scaled * text.lengths[feature]
        others = [
            _control(text, feature, window.sequence, int(position), float(mass), random)
            for position, mass in zip(window.positions, masses, strict=True)
        ]
        itself = np.full(len(window.positions), feature)
        yield _Variant(feature, context, "ablate", window, itself, -window.scaled)
        yield _Variant(feature, context, "control", window, np.array(others), -masses / text.lengths[others])
        if context < config.dose_contexts:
            per_f = float(window.scaled[0] / window.f[0])
            for dose in config.doses:
                added = np.full(len(itself), dose * strongest * per_f, dtype=np.float32)
                yield _Variant(feature, context, f"dose {dose:g}", window, itself, added)


def _control(
    text: HeldOut, feature: int, sequence: int, position: int, mass: float, random: np.random.Generator
) -> int:
    """Return another feature, to be ablated on this token with as much mass.

    It is drawn from the `NEAREST` other features active there whose mass is nearest, or from all of the dictionary
    where no other is active.
    """
    others, masses = text.active_at(sequence, position)
    kept = (others != feature) & (masses > 0)
    others, masses = others[kept], masses[kept]
    if len(others):
        nearest = np.argsort(np.abs(np.log(masses / mass)), kind="stable")[:NEAREST]
        return int(others[nearest[random.integers(len(nearest))]])
    usable = np.flatnonzero(text.lengths > 0)
    return int(usable[random.integers(len(usable))])


def _compare(
    clean: Float[Tensor, "compared vocab"],
    p: Float[Tensor, "compared vocab"],
    log_p: Float[Tensor, "compared vocab"],
    places: Int64[Tensor, " compared"],
    token_ids: Int64[Tensor, " position"],
    counted: Bool[np.ndarray, " position"],
) -> _Sums:
    kl = torch.linalg.vecdot(p, clean - log_p)
    following = torch.clamp(places + 1, max=len(token_ids) - 1)
    scored = (places + 1 < len(token_ids)) & torch.from_numpy(counted)[following]
    target = token_ids[following][:, None].to(clean.device)
    loss = (clean.gather(1, target) - log_p.gather(1, target))[:, 0].cpu()
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
