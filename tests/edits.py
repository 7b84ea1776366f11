"""A saved edit of the SAE that tests probe, and what a measurement of it could have found."""

from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.edits import NewEdit, add_edit, get_edit, put_measurement
from app.queries.saes import SaeDetail
from app.services.actors import Actor, ensure_person
from tests.app.inference.dictionaries import SLUG

TEXT = "It was the best of times"

FIGURE = {"value": 0.25, "interval": [0.125, 0.5]}
SIDES = {"edit": FIGURE, "control": {"value": 0.05, "interval": None}}
THREE = {"before": {"value": 0.0, "interval": None}, **SIDES}
TEXTS = {
    "texts": 4,
    "tokens": 100,
    "loss": 2.5,
    "kl": {**SIDES, "ratio": {"value": 5.0, "interval": [2.0, 8.0]}},
    "rise": SIDES,
}
MEASURED: dict[str, Any] = {
    "corpus": "<i>books</i>",
    "controls": 3,
    "control_features": [[1]],
    "seed": 0,
    "text": {
        **TEXTS,
        "gained": [{"id": 3, "text": "<u>", "change": 0.02, "control": 0.001}],
        "lost": [{"id": 4, "text": " it", "change": -0.03, "control": 0.0}],
    },
    "control_prompts": {**TEXTS, "top_changed": SIDES},
    "facts": {
        "prompts": {
            "prompts": 1,
            "expected": THREE,
            "holds": THREE,
            "forbidden": THREE,
            "each": [
                {
                    "prompt": "It was the",
                    "expected": "best",
                    "forbidden": "worst",
                    "expected_p": [0.1, 0.6, 0.1],
                    "forbidden_p": [0.5, 0.2, 0.5],
                    "holds": [False, True],
                }
            ],
        }
    },
}


async def add_measured(session: AsyncSession, sae: SaeDetail, run: int) -> str:
    """Store an edit with long words and everything that a page can show; its name."""
    change = {"op": "clamp", "value": 30.0, "feature": 7, "direction": None, "positions": "all"}
    more = {"special_tokens": False, "random_direction": None, "sae": sae.slug}
    new = NewEdit(
        title="W" * 80,
        author="W" * 80,
        owner_id=await ensure_person(session, Actor("W" * 80)),
        notes="Why " + "W" * 200,
        model_id=sae.model.id,
        saes=[(sae.id, sae.slug)],
        interventions=[{**change, **more}, {**change, **more, "op": "add", "feature": 9, "positions": [2, 5]}],
        prompts=[{"text": TEXT, "before": ", it was the worst", "after": " W" * 30 + "W" * 200}],
        checks={"prompts": MEASURED["facts"]["prompts"]["each"]},
        file="{}",
    )
    assert await add_edit(session, "measured", new)
    found = await get_edit(session, "measured")
    assert found is not None
    await put_measurement(session, found.id, run, MEASURED | {"checks": found.checks})
    return found.name


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
