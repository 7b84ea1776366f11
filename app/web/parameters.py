"""Query strings: one that a route does not know is refused, so that a misspelt filter is not taken for none."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from app.errors import Unprocessable

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_CHECK_THEIR_OWN: set[Callable[..., Any]] = set()
_MAX_NAME = 40
"""Characters of an unknown name that the error repeats."""


def checks_its_own_parameters(endpoint: Endpoint) -> Endpoint:
    """Leave the query string to the route, which calls `refuse_unknown`: a decorator."""
    _CHECK_THEIR_OWN.add(endpoint)
    return endpoint


async def refuse_unknown_parameters(request: Request) -> None:
    """Check the names in the query string; a dependency of every route.

    Raises:
        Unprocessable: the route has no parameter of this name.
    """
    route = request.scope["route"]
    if request.query_params and route.endpoint not in _CHECK_THEIR_OWN:
        refuse_unknown(request, _parameters(route))


def refuse_unknown(request: Request, known: Collection[str]) -> None:
    """Check the names in the query string against those that are known.

    Raises:
        Unprocessable: one is not.
    """
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        choice = f"It has {', '.join(known)}." if known else "It has none."
        raise Unprocessable(f"This address has no parameter “{unknown[:_MAX_NAME]}”. {choice}")


def _parameters(route: APIRoute) -> tuple[str, ...]:
    """Return the names of a route's query parameters, in order."""
    fields = get_flat_params(route.dependant)
    return tuple(dict.fromkeys(field.alias for field in fields if isinstance(field.field_info, Query)))
