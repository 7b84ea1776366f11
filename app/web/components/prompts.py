"""Shared by the forms for prompts: examples to try, orders of the features found, and links that carry a prompt."""

from urllib.parse import urlencode

from app.services.inference_messages import RankBy

EXAMPLE_PROMPTS = (
    "The footballer suffered a concussion and was taken to hospital in Manchester.",
    "He was one of the two sons of a duke, born in 1874 in Kent.",
    "The species is found in tropical forests of Brazil, Peru and Ecuador.",
    "def add(a, b):\n    return a + b",
)

RANKS: dict[RankBy, str] = {
    "percentile": "most unusual first",
    "activation": "strongest activation first",
    "rarity": "rarest feature first",
}

MAX_CARRIED = 1_500
"""Characters of a prompt that a link to another page carries: addresses have a limit."""


def steer_link(sae: str, feature: int, text: str, op: str = "clamp") -> str:
    """Return the address of the page that changes a feature of `sae` while the model continues `text`."""
    asked = {"feature": feature, "op": op} | ({"text": text} if len(text) <= MAX_CARRIED else {})
    return f"/saes/{sae}/steer?{urlencode(asked)}"
