"""The URL of a database: what it says, how libpq takes it, and what of it messages may show.

Apart from `app.db`, because a site starts its database before it needs SQLAlchemy, which takes long to import.
"""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from app.errors import UserError

CONNECT_TIMEOUT = 5
"""Seconds."""

_URL_FORM = (
    "write it as postgresql://user:password@host:5432/database, and a special character in one of these parts as its "
    "code: @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25, a space as %20"
)


def connection_params(database_url: str) -> dict[str, str]:
    """Return what a URL (`postgres://`, `postgresql://`, with or without a driver) says, under libpq's names.

    Raises:
        UserError: it is not the URL of a Postgres, or leaves open where its password ends. The message quotes no part
            of it: a part of a password may stand in any.
    """
    scheme, _, address = database_url.partition("://")
    authority = re.split(r"[/?#]", address, maxsplit=1)[0]
    is_clear = "#" not in address and address.count("@") == authority.count("@") <= 1
    try:
        params = conninfo_to_dict(f"postgresql://{address}")
    except (psycopg.Error, UnicodeError):
        params = {}
    ports = str(params.get("port", "")).replace(",", "")
    if not (scheme.partition("+")[0] in ("postgres", "postgresql") and is_clear and params) or re.search(r"\D", ports):
        raise UserError(f"SEESAE_DATABASE_URL is not the URL of a Postgres: {_URL_FORM}.")
    return {name: str(value) for name, value in params.items()}


def libpq_url(database_url: str, **changes: str) -> str:
    """Return `database_url` as libpq takes it, everything escaped; `changes` replace its parts, by libpq's names."""
    return url_of({**connection_params(database_url), **changes})


def url_of(params: Mapping[str, str]) -> str:
    """Return the URL of these parameters, under libpq's names."""
    user, database = (quote(params.get(name, ""), safe="") for name in ("user", "dbname"))
    rest = {name: value for name, value in params.items() if name not in ("user", "dbname")}
    return f"postgresql://{user}{'@' if user else ''}/{database}?{urlencode(rest, quote_via=quote, safe='')}"


def address_of(params: Mapping[str, str]) -> str:
    """Return where a database is, for messages: neither its user nor its password."""
    host, port = params.get("host") or params.get("hostaddr", "localhost"), params.get("port", "5432")
    return f"{host}:{port}/{params.get('dbname', '')}"
