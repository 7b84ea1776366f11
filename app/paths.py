"""Where the files that are not Python lie: in the checkout, or inside the installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent


def _folder(name: str) -> Path:
    """`name` beside `app/` in a checkout; the wheel carries it within `app/` (pyproject's force-include)."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _CHECKOUT / name


TEMPLATES = _folder("templates")
STATIC = _folder("static")
MIGRATIONS = _folder("migrations")
