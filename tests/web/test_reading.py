"""Routes that read without a transaction: they write nothing, with or without labels to show."""

from typing import Any

import httpx
import pytest
from sqlalchemy import event

from app.db import create_readers
from app.web.permissions import routes_of
from tests.factories import Synthetic
from tests.web.site import app_of

pytestmark = pytest.mark.read_only

READING = {
    "/": ("/", "/?q=nothing"),
    "/saes/{sae}/features": ("", "?view=cards", "?q=followwed", "?label=unlabelled&sort=max"),
    "/saes/{sae}/features/{index}": ("/0", "/23", "/0?label", "/0?embed=true", "/0?saved=true"),
}
"""Each marked route with what is asked of it."""


def test_every_marked_route_is_asked(client: httpx.AsyncClient) -> None:
    routes = routes_of(app_of(client).routes)
    assert {route.path for route in routes if getattr(route.endpoint, "reads_only", False)} == READING.keys()


@pytest.mark.parametrize("path", READING)
async def test_a_marked_route_writes_nothing(client: httpx.AsyncClient, made: Synthetic, path: str) -> None:
    app = app_of(client)

    def refuse_writes(connection: Any, _: object) -> None:
        connection.cursor().execute("SET default_transaction_read_only = on")
        connection.commit()

    event.listen(app.state.engine.sync_engine, "connect", refuse_writes)
    app.state.readers = create_readers(app.state.engine)
    base = path.replace("{sae}", made.sae.slug).replace("/{index}", "")
    for asked in READING[path]:
        answer = await client.get(asked if path == "/" else base + asked)
        assert answer.status_code == 200, answer.text
