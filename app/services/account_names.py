"""Names that an account can have: what tells people apart where names stand in lists, in texts and in files."""

import unicodedata

from app.errors import Unprocessable
from app.queries.label_files import NO_ACCOUNT
from app.services.labels import MAX_NAME, tidy_name
from app.services.texts import one_line

_UNSEEN = ("Cc", "Cf", "Co", "Cs")
"""Categories of characters that control how others are shown, or show nothing themselves."""
_ENDING = NO_ACCOUNT.strip()


def account_name(name: str) -> str:
    """Return the name of an account, tidied.

    Raises:
        Unprocessable: it is empty, too long, or has what stands for something else beside names.
    """
    name = tidy_name("account", name)
    if name != possible_name(name):
        raise Unprocessable(
            "The name of an account has letters, digits, spaces and signs such as . - _ and ’. It has no comma and no "
            f"characters that cannot be seen, and does not begin with @ or end with “{_ENDING}”."
        )
    return name


def possible_name(name: str) -> str:
    """Return what of a name an account can have: '' if nothing."""
    seen = "".join(sign for sign in name if sign != "," and unicodedata.category(sign) not in _UNSEEN)
    before = None
    while seen != before:
        before = seen
        seen = one_line(seen.lstrip("@"))
        if seen.casefold().endswith(_ENDING):
            seen = seen[: -len(_ENDING)]
    return seen[:MAX_NAME]
