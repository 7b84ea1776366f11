"""Parse fields of forms and query strings."""

from app.errors import Unprocessable
from app.web.components.formatting import round_percent

SHARE = "a share of tokens from 0 to 1, such as 0.001 for 0.1 %"

_DENSITIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def one_of(name: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """Return `value` if it is a known word, None if it is empty.

    Raises:
        Unprocessable: it is not a known word.
    """
    if value and value not in known:
        raise Unprocessable(f"“{value[:40]}” is not a valid {name}: use {', '.join(known)}, or none.")
    return value or None


def number(name: str, value: str | None, most: float, what: str) -> float | None:
    """Return a number from 0 to `most`, None if `value` is empty.

    Raises:
        Unprocessable: it is not such a number; `what` describes a valid one.
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
    """Return the densities to choose from, including the selected one."""
    values = sorted({*_DENSITIES, *([] if selected is None else [selected])})
    return [(value, round_percent(value)) for value in values]
