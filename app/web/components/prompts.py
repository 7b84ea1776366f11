"""What the forms for prompts share: examples to try, and orders of the features found."""

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
