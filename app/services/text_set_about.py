"""What is said of a text set. On its own, because the command line reads it of the built-in sets for its help."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is said of a set, beside its texts."""

    name: str
    description: str = ""
    source: str = ""
    licence: str = ""
    url: str = ""
    offensive: bool = False
