"""What is said of an effect."""

import pytest

from app.queries.effects import EffectSummary
from app.web.components.effect_text import points, sentence, short


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        (
            EffectSummary(412, 3.12, (2.68, 3.61)),
            "Ablating it changes the model's predictions 3.1 × as much as chance, 2.7–3.6; used.",
        ),
        (
            EffectSummary(412, 1.1, (0.9, 1.4)),
            "No effect beyond chance on 412 tokens: 1.1 × as much as chance, 0.90–1.4.",
        ),
        (
            EffectSummary(412, 0.5, (0.3, 0.7)),
            "Ablating it changes the model's predictions less than chance, 0.50 × as much, 0.30–0.70.",
        ),
        (EffectSummary(9, 1.1, None), "It is active in too little held-out text to compare it with chance (9 tokens)."),
        (EffectSummary(0, None, None), "It is not active on the held-out text, so its effect is not known."),
    ],
)
def test_sentence(effect: EffectSummary, said: str) -> None:
    assert sentence(effect).replace("\u202f", " ").replace("\xa0", " ") == said


def test_short_and_points() -> None:
    assert short(EffectSummary(1, None, None)) == "–"
    assert short(EffectSummary(1, 12.34, (1, 20))) == "12.3 ×"
    assert points(0.0123) == "+1.2 %"
    assert points(-0.0123) == "−1.2 %"
