"""Requests that schemathesis draws from the description of the API, sent by each role: answers are as it declares them.

SEESAE_SCHEMA_EXAMPLES raises the number of requests for each operation.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.main import create_app
from app.services.actors import Actor, Role
from app.services.comments import add_comment
from app.services.lists import ListText, NewItem, create_list
from app.settings import Settings
from tests.blind import FEW_TOKENS, OPTIONS, add_test
from tests.factories import add_label, add_run, make_sae
from tests.labelling import label_together, make_set
from tests.monitors import add_alerts, add_monitor
from tests.people import sign_in
from tests.suggestions import suggest_some
from tests.text_sets import make_text_set
from tests.web.site import site

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("SEESAE_SCHEMA_EXAMPLES", "4"))
ROLES = (Role.viewer, Role.labeller, Role.reviewer, Role.admin)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
DRAWN = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
REMOVES_ALL = {"DELETE /api/v1/saes/{sae}", "DELETE /api/v1/saes/{sae}/index"}
"""Sent only with names that do not exist, because all others need what they delete."""


def operations() -> dict[str, APIOperation]:
    """Every operation of the API by its method and path."""
    app = create_app(Settings(database_url="postgresql://unused"))
    schema = schemathesis.openapi.from_dict(app.openapi())
    return {operation.ok().label: operation.ok() for operation in schema.get_all_operations()}


OPERATIONS = operations()
"""None of them sends events without end; pages do, and are left out of the description."""


@dataclass(frozen=True)
class Filled:
    """A site with something of each kind, and the headers of each role; nobody has none."""

    client: httpx.AsyncClient
    people: list[dict[str, str]]
    places: dict[str, str]
    """What the names in paths may stand for."""


@pytest.fixture(scope="module")
async def filled(module_engine: AsyncEngine, module_database_url: str, tmp_path_factory: Any) -> AsyncIterator[Filled]:
    made = await make_sae(module_engine, **OPTIONS)
    await make_set(module_engine, made.sae)
    await label_together(module_engine, made.sae)
    people = [await sign_in(module_engine, role.name, role) for role in ROLES]
    ada = Actor("ada")
    async with transaction(create_sessionmaker(module_engine)) as session:
        await suggest_some(session, made)
        label = await add_label(session, made.sae, FEW_TOKENS, "words for music", author="grace")
        await add_test(session, made, "detection", label=label, testers=("linus",))
        await add_run(session, made.sae, ends="failed")
        await add_comment(session, made.sae, 3, actor=people[1].actor, text="Is it so?")
        await create_list(session, ListText("Rivers"), [NewItem(made.sae.slug, 3)], actor=ada)
        await make_text_set(session)
        await add_alerts(session, await add_monitor(session, made.sae))
    home: Path = tmp_path_factory.mktemp("home")
    site_settings = Settings(database_url=module_database_url, home=home, writes_per_minute=1_000_000)
    async with site(site_settings) as client:
        lists = (await client.get("/api/v1/lists", headers=people[0].headers)).json()["lists"]
        places = {
            "sae": made.sae.slug,
            "id": "1",
            "index": "3",
            "feature": "3",
            "name": "moods",
            "alert": "1",
            "list": lists[0]["id"],
        }
        yield Filled(client, [{}, *(person.headers for person in people)], places)


def drawn(operation: APIOperation) -> list[tuple[Case, bool]]:
    """Requests that fit the description and requests that do not, each with whether it is for what there is."""
    strategy = operation.as_strategy()
    if operation.body or operation.path_parameters or operation.query or operation.headers:
        strategy |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    cases = []

    @DRAWN
    @given(strategy, st.sampled_from([True, True, False]))
    def keep(case: Case, existing: bool) -> None:
        cases.append((case, existing))

    keep()
    return cases


def request_of(case: Case, filled: Filled, existing: bool) -> dict[str, Any]:
    """What httpx sends for a case, to things that are there if `existing`."""
    if existing and case.operation.label not in REMOVES_ALL:
        of = filled.places | ({"id": filled.places["list"]} if "/lists/" in case.operation.path else {})
        case.path_parameters |= {name: of[name] for name in case.path_parameters if name in of}
    request = case.as_transport_kwargs("http://localhost")
    kept = {name: request[name] for name in ("method", "url", "params", "json") if name in request}
    return kept | {"content": request.get("data"), "headers": dict(request["headers"])}


def encoded(headers: dict[str, Any]) -> dict[str, bytes]:
    return {name: str(value).encode() for name, value in headers.items()}


@pytest.mark.parametrize("label", OPERATIONS)
async def test_answers_are_as_declared(filled: Filled, label: str) -> None:
    for case, existing in drawn(OPERATIONS[label]):
        request = request_of(case, filled, existing)
        for person in filled.people:
            response = await filled.client.request(**request | {"headers": encoded(request["headers"] | person)})
            if response.status_code == 503:  # the site of this test has no inference process
                assert "inference" in response.text
            else:
                case.validate_response(response, CHECKS)
            assert person or response.status_code in (400, 401, 422)  # 400, 422: the body is read before anything else
