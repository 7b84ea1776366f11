"""What people send by forms and query strings, read as values, and what they may choose among."""

from app.errors import Unprocessable
from app.web.components.formatting import round_percent

SHARE = "a share of tokens from 0 to 1, such as 0.001 for 0.1 %"

_DENSITIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def one_of(name: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """One of the words that are known, or None for nothing.

    Raises:
        Unprocessable: it is another word.
    """
    if value and value not in known:
        raise Unprocessable(f"“{value[:40]}” is no {name} to list by: use {', '.join(known)}, or none.")
    return value or None


def number(name: str, value: str | None, most: float, what: str) -> float | None:
    """A number from 0 to `most`, or None for nothing.

    Raises:
        Unprocessable: it is none; `what` says what it is.
    """
    if not value:
        return None
    try:
        found = float(value)
    except ValueError:
        found = -1.0
    if not 0 <= found <= most:
        raise Unprocessable(f"{name} is {what}; “{value[:40]}” is not.")
    return found


def densities(selected: float | None) -> list[tuple[float, str]]:
    """Densities to choose from, and the selected one if it is another."""
    values = sorted({*_DENSITIES, *([] if selected is None else [selected])})
    return [(value, round_percent(value)) for value in values]
