"""Errors of the routes under /v1 in OpenAI's shape, so that its clients raise their own exceptions."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from app.errors import BadParameter, Busy, NoSuchModel, UserError
from app.problems import schema_of
from app.redaction import redact

PREFIX = "/v1/"

_KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", None),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "unavailable"),
}
_STATUS = {409: 400, 413: 400, 422: 400}
"""OpenAI answers 400 to what is wrong with a request; its clients try 409 again."""


class OpenAiError(BaseModel):
    """What was wrong, and what to do."""

    message: Annotated[str, Field(description="One line for a person.")]
    type: str
    param: Annotated[str | None, Field(description="The parameter that it is about.")] = None
    code: Annotated[str | None, Field(description="The kind of error, for programs.")] = None


class OpenAiErrorOut(BaseModel):
    """An error."""

    error: OpenAiError


def is_openai(request: Request) -> bool:
    """True for a request to the OpenAI-compatible endpoint."""
    return request.url.path.startswith(PREFIX)


def error_of(error: UserError) -> tuple[int, OpenAiError]:
    """Return the status and the error that OpenAI's clients know it as."""
    status = 429 if isinstance(error, Busy) else error.status
    param, code = (error.param, error.code) if isinstance(error, BadParameter | NoSuchModel) else (None, None)
    return make_error(status, redact(str(error)), param, code)


def make_error(status: int, message: str, param: str | None = None, code: str | None = None) -> tuple[int, OpenAiError]:
    """Return the status that OpenAI answers with, and the error."""
    status = _STATUS.get(status, status)
    kind, usual = _KINDS.get(status, ("invalid_request_error", None))
    return status, OpenAiError(message=message, type=kind, param=param, code=code or usual)


def error_body(made: tuple[int, OpenAiError]) -> dict[str, Any]:
    """Return the body of an answer, or of the event that ends a stream."""
    return {"error": made[1].model_dump()}


def respond(made: tuple[int, OpenAiError], headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer; half a character in a message becomes "?"."""
    content = json.dumps(error_body(made), ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, status_code=made[0], media_type="application/json", headers=dict(headers or {}))


def _documented() -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": schema_of(OpenAiErrorOut)}}
    return {"4XX": {"description": _REFUSED, "content": content}, 503: {"description": _DOWN, "content": content}}


_REFUSED = (
    "400: a wrong value, something that is not supported, or a prompt that is longer than the model's context. "
    "401: no valid key, on a site with accounts. 403: too low a role. 404: no such model. "
    "429: too many requests wait; `Retry-After` says when to try again."
)
_DOWN = "The inference process is down, or loads the model; trying again later may work."

DOCUMENTED = _documented()
"""The `responses=` of a route."""
