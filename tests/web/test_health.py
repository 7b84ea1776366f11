from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.app.inference.dictionaries import make_dictionary
from tests.web.probing import probing_site
from tests.web.site import site


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with site(Settings(database_url=database_url, home=tmp_path)) as client:
        yield client


async def test_ready_with_all_migrations(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).text == "ready\n"


async def test_not_ready_without_all_migrations(empty_database_url: str, tmp_path: Path) -> None:
    async with site(Settings(database_url=empty_database_url, home=tmp_path)) as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert "seesae db upgrade" in response.text
        assert (await client.get("/healthz")).text == "ok\n"


async def test_requests_are_counted_by_route_and_never_by_address(client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/saes/my-secret-sae", "/api/v1/saes/another?q=my-secret-words", "/my-secret-page", "/healthz"):
        await client.get(path)
    await client.request("SECRET", "/healthz")
    metrics = (await client.get("/metrics")).text
    assert "secret" not in metrics.lower()
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    counted = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in samples
        if sample.name == "seesae_http_requests_total" and sample.labels["method"] == "GET"
    }
    assert counted[("/api/v1/saes/{sae}", "404")] == counted[("/api/v1/saes/{sae}", "422")] == 1
    assert counted[("(none)", "404")] == 1
    assert counted[("/healthz", "200")] == 1
    times = [s for s in samples if s.name == "seesae_http_request_seconds_count" and s.labels["route"] == "/healthz"]
    assert {sample.labels["method"]: sample.value for sample in times} == {"GET": 1, "other": 1}


async def test_pages_and_api_have_their_own_route_templates(client: httpx.AsyncClient) -> None:
    await client.get("/saes/some-sae")
    assert 'route="/saes/{sae}"' in (await client.get("/metrics")).text


async def test_metrics_say_that_inference_is_away(client: httpx.AsyncClient) -> None:
    assert "seesae_inference_up 0\n" in (await client.get("/metrics")).text


async def test_metrics_pass_on_those_of_the_inference_process(database_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database_url, home=tmp_path)
    async with probing_site(make_dictionary(tmp_path), settings) as client:
        metrics = (await client.get("/metrics")).text
    families = {family.name for family in text_string_to_metric_families(metrics)}
    assert {"seesae_http_requests", "seesae_inference_seconds", "seesae_inference_memory_bytes"} <= families
    assert "seesae_inference_up 1\n" in metrics
