"""Folders of the files that are not Python, in the checkout or in the installed package."""

from pathlib import Path, PurePath

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent


def _folder(name: str) -> Path:
    """Return the folder `name`: beside `app/` in a checkout, inside `app/` in a wheel (pyproject's force-include)."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _CHECKOUT / name


TEMPLATES = _folder("templates")
STATIC = _folder("static")
MIGRATIONS = _folder("migrations")


def without_folder(source: str) -> str:
    """Return a source as others may see it: of a path on this machine, the last name alone."""
    path = PurePath(source)
    return path.name if path.is_absolute() else source
