"""A saved edit of the SAE that tests probe."""

from typing import Any

import httpx

from tests.app.inference.dictionaries import SLUG

TEXT = "It was the best of times"


def body(**fields: Any) -> dict[str, Any]:
    """As a program sends it."""
    change = {"op": "clamp", "value": 30.0, "feature": 7}
    prompts = [{"text": TEXT, "before": ", it was the worst", "after": ", it was <b>spring</b>"}]
    return {"title": "Best of times", "sae": SLUG, "interventions": [change], "prompts": prompts, **fields}


async def save(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Save it by the API; the answer."""
    response = await client.post("/api/v1/edits", json=body(**fields))
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"/api/v1/edits/{made['name']}"
    return made
