"""Passwords: argon2 hashes, computed beside the requests."""

import asyncio
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.errors import Unprocessable

MIN_PASSWORD = 10
MAX_PASSWORD = 200

_hasher = PasswordHash((Argon2Hasher(),))
_threads = ThreadPoolExecutor(2, thread_name_prefix="password")
"""Each hash takes 64 MB: two at a time, however many people sign in."""


def check_password(password: str) -> str:
    """Return a new password as it is kept.

    Raises:
        Unprocessable: it is too short or too long.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise Unprocessable(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters: choose another one.")
    return _normal(password)


async def hash_password(password: str) -> str:
    """Return the hash of a new password.

    Raises:
        Unprocessable: it is too short or too long.
    """
    password = check_password(password)
    return await asyncio.get_running_loop().run_in_executor(_threads, _hasher.hash, password)


async def verify_password(password: str, kept: str | None) -> tuple[bool, str | None]:
    """Return True if it is the password, and its hash by today's parameters if `kept` is by older ones.

    Without a hash to compare with it takes as long, so that the time does not tell which accounts there are.
    """
    password = _normal(password[:MAX_PASSWORD])
    right, renewed = await asyncio.get_running_loop().run_in_executor(_threads, _verify, password, kept)
    return right and kept is not None, renewed


def _verify(password: str, kept: str | None) -> tuple[bool, str | None]:
    other = _nobodys()  # made in either case, so that the first attempt does not tell
    return _hasher.verify_and_update(password, kept or other)


@cache
def _nobodys() -> str:
    return _hasher.hash("the password of nobody")


def _normal(password: str) -> str:
    """Return it in one form, because keyboards write é in two; without halves of characters, which have no bytes."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "replace").decode()
