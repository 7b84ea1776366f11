"""The authorities whose certificates this process trusts."""

import ssl
from functools import cache

import httpx


@cache
def authorities() -> ssl.SSLContext:
    """Return those that httpx brings. Reading them takes 20 ms or more, in which a site answers nobody: so once."""
    return httpx.create_ssl_context(trust_env=False)
