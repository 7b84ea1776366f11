"""Errors of the API as `application/problem+json` (RFC 9457)."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
SCHEMA = "#/components/schemas/{model}"


class Problem(BaseModel):
    """An error, and what to do about it."""

    type: Annotated[str, Field(description="`about:blank`: the status and the title say what kind of problem this is.")]
    title: Annotated[str, Field(description="The kind of problem, in a few words.")]
    status: Annotated[int, Field(description="The HTTP status, again.")]
    detail: Annotated[str, Field(description="One line for a person: what was wrong, and what to do.")]

    model_config = {
        "extra": "allow",
        "json_schema_extra": {
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not found",
                    "status": 404,
                    "detail": "There is no SAE “smollm2”. GET /api/v1/saes lists them.",
                }
            ]
        },
    }


def problem(status: int, title: str, detail: str, *, headers: dict[str, str] | None = None, **extra: Any) -> Response:
    """Return the response for one problem; `extra` members are added to the standard ones."""
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, **extra}
    # A lone surrogate cannot be encoded; "replace" keeps an error about bad input from becoming an error of its own.
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def schema_of(shape: type[BaseModel]) -> dict[str, str]:
    """Return OpenAPI's reference to the shape of an error, which `app.main` describes once."""
    return {"$ref": SCHEMA.format(model=shape.__name__)}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of a route, so that OpenAPI lists its problems.

    401, 403, 422, 429 and 503 are part of every route.
    """
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {MEDIA_TYPE: {"schema": schema_of(Problem)}}}
        for status in sorted({*statuses, 401, 403, 422, 429, 503})
    }


_DESCRIPTIONS = {
    401: "Nobody is signed in, or the token is not valid.",
    403: "Neither the site's settings nor the role of who asks allow it.",
    404: "There is no such SAE, feature, label, list or run.",
    409: "It changed since it was read.",
    413: "The input is over its limit.",
    422: "The request has a wrong value.",
    429: "Too many changes in a short time; `Retry-After` says when to try again.",
    503: "A process this needs is down; trying again later may work.",
}
