"""Every error as a person or a program can read it.

It is problem+json under /api/, has OpenAI's shape under /v1/, and else is the page or fragment of rendering.

Never a traceback and never the input: a person gets one line that says what to do; the log gets types and frames
(`app.logging.describe`).
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from app.errors import SignInNeeded, TooMany, Unavailable, UserError
from app.problems import problem
from app.redaction import redact
from app.web.openai_errors import PREFIX, error_of, is_openai, make_error, respond
from app.web.rendering import render_error, wants_fragment
from app.web.return_address import sign_in_address

log = structlog.get_logger("web")

_TITLES = {
    400: "This request cannot be answered",
    401: "Sign in first",
    403: "Refused",
    404: "Not found",
    405: "Not possible here",
    413: "Too large",
    422: "Not understood",
    429: "Too many at once",
    500: "Something went wrong",
    503: "Not available right now",
}
_UNSTORABLE = "A value in the request is outside what the database can hold, such as a NUL character or a huge number."
_MAX_ERRORS = 5
_MAX_LOCATION = 80
_OF_UNION = re.compile(r"[A-Z(\[]|^(str|int|float|bool)$")


def install(app: FastAPI) -> None:
    """Add all handlers but `unexpected`, which `UnexpectedErrorMiddleware` calls."""
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(DataError, _data_error)


def answer(
    request: Request,
    status: int,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **extra: Any,
) -> Response:
    """Return an error as problem+json, a page or a fragment; `extra` are further members of the API's problem."""
    if is_openai(request):
        return respond(make_error(status, detail), headers)
    if request.url.path.startswith("/api/"):
        return problem(status, title, detail, headers=dict(headers or {}), **extra)
    response = render_error(request, status, title, detail)
    response.headers.update(headers or {})
    return response


def unexpected(request: Request, error: Exception) -> Response:
    """Answer a fault of the site: the person gets an id, and the log line under that id has types and frames."""
    error_id = uuid4().hex[:12]
    log.error("unexpected_error", error_id=error_id, exc_info=error)
    detail = f"This is a fault of SeeSAE, not yours. Its log has more under the id {error_id}."
    return answer(request, 500, _TITLES[500], detail, error_id=error_id)


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    headers = None
    if isinstance(error, Unavailable):
        log.warning("unavailable", detail=str(error), exc_info=error.__cause__)
    if isinstance(error, TooMany | Unavailable):
        headers = {"Retry-After": str(error.retry_after)}
    if isinstance(error, SignInNeeded):
        headers = {"WWW-Authenticate": "Bearer"}
        if _may_sign_in(request):
            return RedirectResponse(sign_in_address(request), status_code=303, headers={"Cache-Control": "no-store"})
    if is_openai(request):
        return respond(error_of(error), headers)
    return answer(request, error.status, error.title, redact(str(error)), headers=headers)


def _may_sign_in(request: Request) -> bool:
    """True if a person opens a page, and can be asked who they are."""
    by_program = request.url.path.startswith(("/api/", PREFIX)) or "authorization" in request.headers
    return request.method == "GET" and not by_program and not wants_fragment(request)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and error.detail == "Not Found":
        detail = "There is nothing at this address. Check it, or start from the first page."
    elif error.detail == "There was an error parsing the body":  # Starlette's 400; other bodies that are wrong get 422
        return answer(request, 422, _TITLES[422], "The body cannot be read: send JSON in UTF-8.")
    elif error.status_code == 405:
        detail = f"This address does not take {request.method}."
    else:
        detail = error.detail
    title = _TITLES.get(error.status_code, _TITLES[400])
    return answer(request, error.status_code, title, detail, headers=error.headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [{"where": _location(fault["loc"]), "message": _said(fault)} for fault in error.errors()[:_MAX_ERRORS]]
    detail = "; ".join(f"{fault['where']}: {fault['message']}" for fault in found) + "."
    if is_openai(request):
        return respond(make_error(422, detail, _param(error.errors()[0]["loc"])))
    return answer(request, 422, _TITLES[422], detail, errors=found)


def _said(fault: Mapping[str, Any]) -> str:
    """Return what is wrong without pydantic's word for it, and without the point that follows the last fault."""
    return str(fault["msg"]).removeprefix("Value error, ").rstrip(".")


def _param(loc: Sequence[Any]) -> str | None:
    """Return the name of a parameter as OpenAI writes it, such as `messages.0.role`; pydantic adds parts of unions."""
    if loc[1:] and isinstance(loc[1], int):  # where the JSON breaks off
        return None
    names = itertools.takewhile(lambda name: not _OF_UNION.search(name), map(str, loc[1:]))
    return ".".join(names)[:_MAX_LOCATION] or None


def _location(loc: Sequence[Any]) -> str:
    """Return the location in the request, as `text in the body`, cut because the sender may choose the last part."""
    source, *names = loc or ("request",)
    where = {"path": "address", "header": "headers"}.get(str(source), str(source))
    if not names or (source == "body" and all(isinstance(name, int) for name in names)):
        return f"the {where}"
    return f"“{'.'.join(str(name) for name in names)[:_MAX_LOCATION]}” in the {where}"


async def _data_error(request: Request, _error: Exception) -> Response:
    """Answer a value that Postgres cannot hold; `app.db` translates the other errors of the database."""
    return answer(request, 422, _TITLES[422], _UNSTORABLE)
