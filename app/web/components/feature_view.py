"""Parts of a feature's page that other pages show too."""

from dataclasses import dataclass

from app.queries.examples import ExampleView
from app.web.components import token_text


@dataclass(frozen=True, slots=True)
class Example:
    """An example with its line."""

    view: ExampleView
    line: token_text.Line


@dataclass(frozen=True, slots=True)
class Band:
    """A fifth of a feature's activations, from `low` to `high`, with examples drawn from it."""

    name: str
    low: float
    high: float
    examples: list[Example]
