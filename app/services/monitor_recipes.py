"""Monitors that ship ready to be made on the demo's model: which texts, at which rate, and what to expect."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """A monitor to make, from built-in text sets; `NAME:LABEL` is a part of a set."""

    name: str
    title: str
    positive: str
    benign: str
    elsewhere: tuple[str, str]
    """Positive and benign texts on which it is tried out of distribution."""
    fpr: float
    tokens: Literal["all", "user", "assistant", "last"] = "all"
    pool: Literal["max", "mean", "top", "ema"] = "max"

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets that it takes, each once."""
        return tuple(dict.fromkeys(part.partition(":")[0] for part in (self.positive, self.benign, *self.elsewhere)))


_RECIPES = (
    Recipe(
        name="toxic-text",
        title="Toxic text",
        positive="toxicity:toxic",
        benign="toxicity:benign",
        elsewhere=("toxicity-elsewhere:toxic", "toxicity-elsewhere:benign"),
        fpr=0.01,
    ),
    Recipe(
        name="harmful-requests",
        title="Requests to harm",
        positive="harmful-requests:harmful",
        benign="harmful-requests:benign",
        elsewhere=("jailbreaks:jailbreak", "jailbreaks:benign"),
        fpr=0.01,
    ),
    Recipe(
        name="false-statements",
        title="False statements",
        positive="true-false:false",
        benign="true-false:true",
        elsewhere=("yes-no:false", "yes-no:true"),
        fpr=0.05,  # 439 questions: the fifth for calibration supports no lower rate
    ),
)
RECIPES = {recipe.name: recipe for recipe in _RECIPES}
