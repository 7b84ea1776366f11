"""Check of the API's errors, which are all problem+json."""

from typing import Any

import httpx


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail"} <= content.keys()
    assert content["status"] == status
    assert "\n" not in content["detail"]
    assert len(response.content) < 5_000
    return content
