from typing import Any

from app.services.absorption import MEASURE, absorption_verdict, read_absorption

FIGURE = {"value": 0.12, "low": 0.08, "high": 0.17}
OWN = {"fraction": FIGURE, "f1": 0.78, "features": 1.5, "letters": 20, "words": 312, "told": 0.9}
SPELLING = {"accuracy": 0.95, "low": 0.92, "high": 0.97, "words": 256, "spells": True}


def verdict(**changes: Any) -> str:
    found = {"measure": MEASURE, "threshold": 0.8, "spelling": SPELLING, "reason": None, "sae": OWN, "random": None}
    found |= changes
    return " ".join(absorption_verdict(read_absorption({"absorption": found})))


def test_what_is_absorbed_stands_beside_the_random_dictionary() -> None:
    control = OWN | {"fraction": FIGURE | {"value": 0.01}, "f1": 0.35}
    assert verdict(random=control) == (
        "Feature absorption: on 312 words of 20 letters, features of other meanings carry 0.12 (0.08 to 0.17) of the "
        "first letter, in a random dictionary 0.01. The features of a letter tell it with an F1 of 0.78, those of a "
        "random dictionary with 0.35; where they do not tell it, there is nothing to absorb."
    )
    assert "random" not in verdict()


def test_what_was_not_measured_says_why() -> None:
    cannot = SPELLING | {"accuracy": 0.4, "spells": False}
    assert "it tells 40 % (92 % to 97 %), and 80 % are needed" in verdict(spelling=cannot).replace("\u202f", " ")
    assert verdict(spelling=None, reason="There are no words.").endswith("was not measured. There are no words.")
    assert "no three letters" in verdict(sae=None)
    assert absorption_verdict(read_absorption({})) == []


def test_what_was_measured_in_another_way_is_not_shown() -> None:
    assert "measure it again" in verdict(measure=MEASURE - 1)
    assert "0.12" not in verdict(measure=MEASURE - 1)
    assert "model cannot spell" in verdict(measure=MEASURE - 1, spelling=SPELLING | {"spells": False}), "still true"
