"""The words that pages explain: metrics, health flags, bands, architectures. One line each, beside the number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.queries.saes import SaeDetail
from app.web.formatting import count, percent, significant


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with its name and its meaning."""

    name: str
    value: str
    meaning: str


_METRICS: dict[str, tuple[str, Callable[[Any], str], str]] = {
    "explained_variance": ("Explained variance", significant, "share of the activations' variance that the SAE rebuilds"),
    "l0": ("L0", significant, "features active on a token, on average"),
    "dead_fraction": ("Dead features", percent, "never active on the evaluated tokens"),
    "ce_recovered_mean": ("Loss recovered", percent, "of the model's loss, against replacing the activations by their mean"),
    "ce_recovered_zero": ("Loss recovered, zero", percent, "the same, against replacing the activations by zero"),
    "kl": ("KL divergence", significant, "nats a token, from the model's predictions to those through the SAE"),
    "ce_clean": ("Loss of the model", significant, "cross-entropy in nats a token, untouched"),
    "ce_sae": ("Loss through the SAE", significant, "cross-entropy with the activations rebuilt by the SAE"),
    "cosine": ("Cosine", significant, "between an activation and its reconstruction, on average"),
    "l2_ratio": ("Norm ratio", significant, "length of the reconstruction over length of the activation"),
    "mse": ("Squared error", significant, "mean of the squared distance to the reconstruction"),
    "tokens": ("Evaluated on", lambda value: count(int(value)), "held-out tokens"),
}

HEALTH = {
    "dead": "never active on the counted tokens",
    "dense": "active on more than a tenth of all tokens",
    "duplicate": "its decoder direction is almost that of another feature",
    "positional": "active at certain positions of a sequence rather than on content",
    "special_token": "active on special tokens such as the end of a text",
    "single_token": "active on one token almost only",
}

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

CONFIDENCE = {1: "a guess", 2: "unsure", 3: "fairly sure", 4: "sure", 5: "certain"}


def measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """The metrics that are known and measured, in the order in which they matter."""
    return [
        Measure(name, form(metrics[key]), meaning)
        for key, (name, form, meaning) in _METRICS.items()
        if metrics.get(key) is not None
    ]


def health_name(flag: str) -> str:
    """'special_token' -> 'special token'."""
    return flag.replace("_", " ")


def architecture(name: str) -> str:
    """'batchtopk' -> 'BatchTopK'."""
    return ARCHITECTURES.get(name, name)


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


def headline(sae: SaeDetail) -> list[tuple[str, str]]:
    """The few numbers by which SAEs are compared in a list."""
    known = [("explained variance", "explained_variance", significant), ("L0", "l0", significant), ("dead", "dead_fraction", percent)]
    measured = [(name, form(sae.metrics[key])) for name, key, form in known if sae.metrics.get(key) is not None]
    return [*measured, ("labelled", count(sae.labelled))]


FILTERS = {"architecture": architecture, "headline": headline, "health_name": health_name, "hook_words": hook}
