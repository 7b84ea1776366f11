"""The page to return to after signing in: always one of this site."""

from urllib.parse import urlencode, urlsplit

from starlette.requests import Request

_MAX = 2_000


def sign_in_address(request: Request) -> str:
    """Return the address that asks who reads, and then leads back to the page of this request."""
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/sign-in?{urlencode({'next': asked})}" if safe_return(asked) != "/" else "/sign-in"


def safe_return(address: str) -> str:
    r"""Return `address` if it is a path of this site, else the first page.

    Browsers take `//host`, `/\host` and `/` with a tab or line break behind it for other sites.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    is_path = address.startswith("/") and not address.startswith("//") and not (parts.scheme or parts.netloc)
    is_plain = "\\" not in address and address.isprintable() and len(address) <= _MAX
    return address if is_path and is_plain and parts.path not in ("/sign-in", "/sign-out") else "/"
