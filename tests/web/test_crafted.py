"""Bodies that hold what no database, tokenizer or answer can: each is refused in words, in every field."""

import json
import re
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.web.permissions import LEAST_ROLES
from tests.factories import Synthetic
from tests.labelling import label, make_set

TEXTS = ["nul\0", "half \ud800", "\udfff"]
NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e400, 2**31, -(2**70), 10**400, 1.5, True]
ITEM = {"sae": "tiny-l1-batchtopk-24", "feature": 3, "note": "n"}
BODIES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "PUT",
        "/api/v1/saes/{sae}/features/5/labels/mine",
        {"explanation": "x", "set": "s", "author": "a", "categories": ["c"], "status": "draft"}
        | {"interpretability": 3, "confidence": 3},
    ),
    ("POST", "/api/v1/lists", {"name": "n", "description": "d", "author": "a", "items": [ITEM]}),
    ("POST", "/api/v1/saes/{sae}/probe", {"text": "t", "top_k": 3}),
    (
        "POST",
        "/api/v1/saes/{sae}/features/by-example",
        {"text": "t", "tokens": [1], "min_density": 0.1, "max_density": 0.2, "limit": 3},
    ),
    (
        "POST",
        "/api/v1/labelsets",
        {"sae": "{sae}", "name": "n", "needed": 1, "order": "random", "guideline": {"text": "t", "categories": ["c"]}}
        | {"scope": {"features": [3], "sample": 3, "seed": 1}},
    ),
    ("POST", "/api/v1/labelsets/1/next", {"besides": [3]}),
    ("POST", "/api/v1/labelsets/1/skip", {"feature": 3}),
    (
        "PUT",
        "/api/v1/labelsets/1/features/3/draft",
        {"explanation": "x", "categories": ["c"], "interpretability": 3, "confidence": 3},
    ),
    (
        "POST",
        "/api/v1/labelsets/1/decisions",
        {"feature": 3, "explanation": "x", "categories": ["c"], "interpretability": 3, "note": "n", "replaces": 1},
    ),
    ("PUT", "/api/v1/labels/1/vote", {"value": 1}),
    ("POST", "/api/v1/labelsets/1/tests", {"kind": "detection", "label": 1, "items": 20, "seed": 1}),
    ("POST", "/api/v1/tests/1/answers", {"answers": [1], "confidences": [1]}),
    ("POST", "/api/v1/saes/{sae}/features/5/comments", {"text": "t", "answers": 1, "set": "default"}),
    ("POST", "/api/v1/saes/{sae}/suggestions", {"features": [3], "source": "statistics"}),
]
ODD_IDS = ["0", "-1", "1099511627776", "9" * 30, "%00", "1%00", "%ED%A0%80", "٣", "1.0", " "]
FORMS: list[tuple[str, dict[str, str]]] = [
    ("/saes/{sae}/features/5/labels", {"explanation": "x", "categories": "c", "author": "a"}),
    ("/lists", {"name": "n", "description": "d", "author": "a", "sae": "{sae}", "features": "1"}),
    ("/saes/{sae}/features/5/lists", {"list": "l", "name": "n", "note": "n"}),
    ("/saes/{sae}/probe", {"text": "t", "feature": "1"}),
    ("/saes/{sae}/features/by-example", {"text": "t", "token": "1", "min_density": "0.1", "max_density": "0.2"}),
    ("/saes/{sae}/features/5/try", {"text": "t"}),
    ("/labelsets", {"sae": "{sae}", "name": "n", "guideline": "g", "categories": "c", "needed": "1", "sample": "2"}),
    ("/labelsets/1/label", {"feature": "3", "explanation": "x", "categories": "c", "interpretability": "3"}),
    ("/labelsets/1/skip", {"feature": "3"}),
    ("/labelsets/1/adjudicate/3", {"explanation": "x", "categories": "c", "note": "n", "replaces": "1"}),
    ("/labelsets/1/adjudicate/3/votes", {"label": "1", "value": "1"}),
    ("/labelsets/1/tests", {"kind": "detection", "label": "1"}),
    ("/saes/{sae}/features/5/comments", {"text": "t", "answers": "1"}),
    ("/saes/{sae}/probe/saved", {"title": "t", "text": "t"}),
    ("/sign-in", {"name": "n", "password": "p", "next": "/"}),
    ("/invitations/none", {"name": "n", "password": "p"}),
    ("/account/tokens", {"name": "n"}),
    ("/account/claims", {"name": "1", "account": "1"}),
]


@pytest.fixture(autouse=True)
async def labelled(engine: AsyncEngine, made: Synthetic) -> None:
    """A label set, and a label in it, for the routes that name them as 1."""
    assert (await make_set(engine, made.sae)).id == 1
    async with transaction(create_sessionmaker(engine)) as session:
        assert (await label(session, made.sae, 3, "grace", "rivers", "names")).id == 1


def crafted(value: Any) -> list[Any]:
    """`value` with one of its texts or numbers, or one of its keys, replaced by each crafted one."""
    if isinstance(value, dict):
        inside = [value | {name: other} for name, inner in value.items() for other in crafted(inner)]
        return inside + [value | {key: 1} for key in TEXTS]
    if isinstance(value, list):
        return [[other] for other in crafted(value[0])]
    return [*TEXTS, *NUMBERS] if isinstance(value, str) else NUMBERS


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
async def test_a_crafted_body_is_refused(
    client: httpx.AsyncClient, made: Synthetic, method: str, path: str, body: dict[str, Any]
) -> None:
    for sent in crafted(body):
        response = await client.request(
            method,
            path.format(sae=made.sae.slug),
            content=json.dumps(sent).replace("{sae}", made.sae.slug),
            headers={"Content-Type": "application/json"},
        )
        accepted = response.status_code in (200, 201, 202, 204) and not any(
            text in str(sent) for text in ("\0", "\ud800")
        )
        assert accepted or response.status_code in (403, 404, 409, 422, 503), (sent, response.text)


@pytest.mark.parametrize("path", [path for path, _ in FORMS])
async def test_a_crafted_form_is_refused(client: httpx.AsyncClient, made: Synthetic, path: str) -> None:
    fields = dict(FORMS)[path]
    for name in fields:
        for text in ("nul\0", "inf", "nan", "9" * 400, "-1", "1e400", "%ff"):
            data = {key: value.format(sae=made.sae.slug) for key, value in fields.items()} | {name: text}
            response = await client.post(path.format(sae=made.sae.slug), data=data)
            assert response.status_code in (200, 303, 401, 403, 404, 409, 413, 422, 429, 503), (data, response.text)


async def test_a_body_that_is_no_text_is_refused_like_other_wrong_ones(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/api/v1/lists", content=b'{"name": "\xff"}', headers=headers)
    assert (response.status_code, response.json()["detail"]) == (422, "The body cannot be read: send JSON in UTF-8.")


async def test_odd_ids_in_addresses_are_refused(client: httpx.AsyncClient, made: Synthetic) -> None:
    for action in LEAST_ROLES:
        method, route = action.split(" ")
        for name in re.findall(r"{[^}]+}", route):
            for odd in ODD_IDS:
                path = route.replace(name, odd).replace("{sae}", made.sae.slug)
                path = re.sub(r"{[^}]+}", "1", path)
                response = await client.request(method, path)
                assert response.status_code < 500 or response.status_code == 503, (action, odd, response.text)
