"""Query strings: one that a route does not know is refused, so that a misspelt filter is not taken for none."""

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from app.errors import Unprocessable

_MAX_NAME = 40
"""Characters of an unknown name that the error repeats."""


async def refuse_unknown_parameters(request: Request) -> None:
    """Check the names in the query string; a dependency of every route.

    Raises:
        Unprocessable: the route has no parameter of this name.
    """
    if not request.query_params:
        return
    known = _parameters(request.scope["route"])
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        choice = f"It has {', '.join(known)}." if known else "It has none."
        raise Unprocessable(f"This address has no parameter “{unknown[:_MAX_NAME]}”. {choice}")


def _parameters(route: APIRoute) -> tuple[str, ...]:
    """Return the names of a route's query parameters, in order."""
    fields = get_flat_params(route.dependant)
    return tuple(dict.fromkeys(field.alias for field in fields if isinstance(field.field_info, Query)))
