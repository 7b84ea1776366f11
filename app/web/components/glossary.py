"""Explanations of metrics, health flags, bands and architectures: one line each, shown beside the number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.queries.saes import SaeDetail
from app.web.components.formatting import count, percent, plain, plural, round_percent, significant
from sae_core.statistics.spec import HEALTH_THRESHOLDS


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with its name and its meaning."""

    name: str
    value: str
    meaning: str
    interval: str = ""
    """The 95 % interval, as '0.84 – 0.86'; empty where there is none."""
    remark: str = ""
    """An explanation of a value that looks wrong; empty for others."""


def _whole(value: float) -> str:
    return count(round(value))


AUROC = "How often a positive text scores above a benign one: 1 is always, 0.5 is chance"
RECALL = "Share of the positive texts that alert"
DIFFERENCE_OF_MEANS = (
    "The mean activation of positive texts less that of benign ones: one direction, nothing else learned"
)


_METRICS: dict[str, tuple[str, Callable[[Any], str], str]] = {
    "explained_variance": (
        "Explained variance",
        significant,
        "share of the activations' variance that the SAE rebuilds",
    ),
    "l0": ("L0", significant, "active features per token, on average"),
    "dead_fraction": ("Dead features", percent, "never active on the evaluated tokens"),
    "ce_recovered_mean": (
        "Loss recovered",
        percent,
        "of the model's loss, against replacing the activations by their mean",
    ),
    "ce_recovered_zero": ("Loss recovered, zero", percent, "the same, against replacing the activations by zero"),
    "kl": ("KL divergence", significant, "nats per token, from the model's predictions to those through the SAE"),
    "ce_clean": ("Loss of the model", significant, "cross-entropy in nats per token, without the SAE"),
    "ce_sae": ("Loss through the SAE", significant, "cross-entropy with the activations rebuilt by the SAE"),
    "cosine": ("Cosine", significant, "between an activation and its reconstruction, on average"),
    "l2_ratio": ("Norm ratio", significant, "length of the reconstruction over length of the activation"),
    "mse": ("Squared error", significant, "mean of the squared distance to the reconstruction"),
    "ce_mean_ablated": ("Loss, mean-ablated", significant, "cross-entropy with the activations replaced by their mean"),
    "ce_zero_ablated": ("Loss, zero-ablated", significant, "cross-entropy with the activations replaced by zero"),
    "dense": ("Dense features", _whole, "active on more than a tenth of the evaluated tokens"),
    "decoder_redundancy": (
        "Decoder redundancy",
        significant,
        "a decoder row's cosine to the one nearest to it, on average over features",
    ),
    "splitting_candidates": (
        "Splitting candidates",
        _whole,
        "features that fire mostly where a more frequent one with a near direction does, and not the other way round",
    ),
}

_MAIN = ("explained_variance", "l0", "dead_fraction", "ce_recovered_mean", "kl")

HEALTH = {
    "dead": "never active on the counted tokens",
    "dense": "active on more than {dense_density} of all tokens",
    "duplicate": "its decoder direction has a cosine above {duplicate_cosine} to another's, and both fire together",
    "positional": "{positional_share} of its activations are at the same few positions of a sequence",
    "special_token": "{special_token_share} of its activations are on the first token of a text",
    "single_token": "{single_token_share} of its activation is on one token",
    "splitting": "fires mostly where a more frequent feature of a near direction does: perhaps a part of its meaning",
    "absorption": "fires on a token of a more frequent feature of a near direction, which does not fire there: perhaps "
    "absorbed from it",
}
_THRESHOLDS: dict[str, Callable[[float], str]] = {
    "dense_density": round_percent,
    "duplicate_cosine": "{:g}".format,
    "positional_share": round_percent,
    "special_token_share": round_percent,
    "single_token_share": round_percent,
}
"""Thresholds that these sentences name, and how they are written."""

COHERENCE = (
    "How alike the tokens are on which its examples peak, from 0 for tokens drawn at random to 1 for one token, "
    "times how rare they are, in bits. Many features that can be named are high."
)

BANDS = {
    5: "strongest fifth",
    4: "fourth fifth",
    3: "middle fifth",
    2: "second fifth",
    1: "weakest fifth",
}

ARCHITECTURES = {
    "standard": "Standard (L1)",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "matryoshka": "Matryoshka BatchTopK",
}

_ALWAYS_LACKING = (
    "top tokens over the whole sample: those shown are counted in its examples only",
    "the mean activation: it is estimated from the histogram",
    "quantile bands: the weaker examples come from intervals of activation, as a rule of equal width",
    "features that are active together, topics, and health flags",
)
_LACKING = {
    "weights": "the weights: no text can be probed, and nothing can be counted again",
    "hook": "the hook point: only what its author calls it",
    "tokens": "how many tokens were counted: the number is estimated from densities and histograms",
    "near": "near decoder directions",
}

ACTS = {
    "label saved": "labelled",
    "label undone": "took back a change of the label of",
    "label claimed": "took over a label of",
    "labels imported": "imported labels of",
    "decision made": "decided what it means:",
    "voted": "voted on a label of",
    "tested": "took a blind test of",
    "set made": "made a label set of",
    "set changed": "changed a label set of",
    "set closed": "closed a label set of",
    "set opened": "opened a label set of",
    "label discarded": "discarded a label of",
    "comment added": "commented on",
    "comment deleted": "deleted a comment on",
    "monitor made": "made the monitor",
    "monitor paused": "paused the monitor",
    "monitor resumed": "resumed the monitor",
    "monitor keeps texts": "began to keep texts of alerts of the monitor",
    "monitor keeps none": "stopped keeping texts of alerts of the monitor",
    "monitor noted": "wrote notes on the monitor",
    "monitor threshold": "chose another candidate, and its threshold, for the monitor",
    "monitor deleted": "deleted the monitor",
    "alert acknowledged": "acknowledged an alert of the monitor",
    "alert raised": "alerted on",
}
"""What was done, as the feed says it; an act that is not here is shown as it is."""
INTERPRETABILITY = {
    1: "no pattern",
    2: "a faint pattern",
    3: "a pattern with many exceptions",
    4: "a pattern with few exceptions",
    5: "one clear meaning",
}
ROLES = {
    "viewer": "Reads everything, and runs prompts through models.",
    "labeller": "Labels, comments, and makes lists and edits of their own.",
    "reviewer": "Makes label sets, decides between labels, and changes what others made.",
    "admin": "Starts runs, deletes SAEs, and looks after accounts.",
}

CONFIDENCE = {1: "a guess", 2: "unsure", 3: "fairly sure", 4: "sure", 5: "certain"}


def measures(metrics: Mapping[str, Any]) -> tuple[list[Measure], list[Measure]]:
    """Return the known metrics that were measured, by importance: the main ones, and the others."""
    intervals = metrics.get("intervals") or {}

    def measure(key: str) -> Measure:
        name, form, meaning = _METRICS[key]
        interval = " – ".join(form(end) for end in intervals.get(key, ()))
        return Measure(name, form(metrics[key]), meaning, interval, _remark(key, metrics[key]))

    known = [(key, measure(key)) for key in _METRICS if metrics.get(key) is not None]
    main = [measure for key, measure in known if key in _MAIN]
    return main, [measure for key, measure in known if key not in _MAIN]


def _remark(key: str, value: float) -> str:
    """Return the reason why a share of the loss is not between 0 and 1."""
    if not key.startswith("ce_recovered") or 0 <= value <= 1:
        return ""
    if value < 0:
        return "below 0 %: the model predicts worse through the SAE than with the replacement"
    return "above 100 %: on these tokens, the model predicts slightly better through the SAE than without it"


def lacking(sae: SaeDetail) -> list[str]:
    """Return what the statistics of an imported SAE lack, as phrases; nothing for one that was indexed here."""
    if not is_imported_index(sae):
        return []
    imported = sae.config.get("imported") or {}
    known = imported.get("lacks") or ()
    missing = [f"{sae.d_sae - sae.indexed:,} of its {plural(sae.d_sae, 'feature')}"] if sae.indexed < sae.d_sae else []
    return [*(words for name, words in _LACKING.items() if name in known), *missing, *_ALWAYS_LACKING]


def is_imported_index(sae: SaeDetail) -> bool:
    """True if the statistics were imported from an export instead of computed here."""
    return sae.index is not None and "counted_by" in sae.index.provenance


def not_counted(sae: SaeDetail) -> str:
    """Return the tokens that are not counted, in the words of the index."""
    assert sae.index is not None
    return str(sae.index.provenance.get("not_counted", "padding and the token that begins a sequence"))


def health(sae: SaeDetail) -> dict[str, str]:
    """Return the meaning of each health flag, with the thresholds of the SAE's index; empty for an imported index."""
    if is_imported_index(sae):
        return {}
    used = sae.index.provenance.get("health") if sae.index else None
    thresholds = HEALTH_THRESHOLDS | (used or {})
    written = {name: write(thresholds[name]) for name, write in _THRESHOLDS.items()}
    return {flag: meaning.format(**written) for flag, meaning in HEALTH.items()}


def health_name(flag: str) -> str:
    """'special_token' -> 'special token'."""
    return flag.replace("_", " ")


def architecture(sae: SaeDetail) -> str:
    """Return the architecture as trained and, if it differs, as saved: 'BatchTopK, saved as JumpReLU'."""
    saved = ARCHITECTURES.get(sae.architecture, sae.architecture)
    trained = ARCHITECTURES.get(sae.config.get("architecture", ""), saved)
    return saved if saved == trained else f"{trained}, saved as {saved}"


def size(sae: SaeDetail) -> str:
    """'4,096 features, k 32'; k is what it was trained with where the saved form has none."""
    k = sae.k or sae.config.get("k")
    return plural(sae.d_sae, "feature") + (f", k {plain(k)}" if k else "")


_HOOKS = {
    "resid_pre": "the residual stream before layer {}",
    "resid_mid": "the residual stream between attention and MLP of layer {}",
    "resid_post": "the residual stream after layer {}",
    "mlp_in": "the input of layer {}'s MLP",
    "mlp_out": "the output of layer {}'s MLP",
    "attn_out": "the output of layer {}'s attention",
}


def hook(address: str) -> str:
    """'resid_post.9' -> 'the residual stream after layer 9'."""
    name, _, layer = address.partition(".")
    return _HOOKS[name].format(layer) if name in _HOOKS else f"the activations at {address}"


def kind(sae: SaeDetail) -> str:
    """'sparse autoencoder', or 'transcoder' if it reconstructs another hook point than it reads."""
    return "transcoder" if sae.hook_out else "sparse autoencoder"


def place(sae: SaeDetail) -> str:
    """'resid_post.9', or 'mlp_in.9 → mlp_out.9'."""
    return f"{sae.hook} → {sae.hook_out}" if sae.hook_out else sae.hook


def place_words(sae: SaeDetail) -> str:
    """'the residual stream after layer 9', or for a transcoder what it reads and what it reconstructs."""
    return f"{hook(sae.hook)}, rebuilding {hook(sae.hook_out)}" if sae.hook_out else hook(sae.hook)


def differing_parts(a: SaeDetail, b: SaeDetail) -> tuple[str, str]:
    """Return the differing parts of two slugs, '…1024' and '…4096', or both in full if one is a prefix of the other."""
    ours, theirs = a.slug.split("-"), b.slug.split("-")
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[shared] == theirs[shared]:
        shared += 1
    if not shared or shared in (len(ours), len(theirs)):
        return a.slug, b.slug
    return f"…{'-'.join(ours[shared:])}", f"…{'-'.join(theirs[shared:])}"


def headline(sae: SaeDetail) -> list[tuple[str, str]]:
    """Return the few numbers by which SAEs are compared in a list."""
    known = [("explained variance", "explained_variance"), ("L0", "l0")]
    measured = [(name, significant(sae.metrics[key])) for name, key in known if sae.metrics.get(key) is not None]
    return [*measured, *_dead(sae), ("labelled", count(sae.labelled))]


def _dead(sae: SaeDetail) -> list[tuple[str, str]]:
    """Return the share of dead features: in the index, as in its health table, else on the evaluated tokens."""
    if sae.index is not None:
        return [] if is_imported_index(sae) else [("dead", percent(sae.index.health.get("dead", 0) / sae.indexed))]
    evaluated = sae.metrics.get("dead_fraction")
    return [] if evaluated is None else [("dead in evaluation", percent(evaluated))]


FILTERS = {
    "architecture": architecture,
    "headline": headline,
    "health_name": health_name,
    "kind": kind,
    "lacking": lacking,
    "place": place,
    "place_words": place_words,
    "size": size,
}
