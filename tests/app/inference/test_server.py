"""The inference service without the site: its secret, and its answers to bad requests."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Receive

from app import asgi
from app.errors import UserError
from app.inference.engine import ProbeEngine
from app.inference.ranking import ranked
from app.inference.scheduler import Scheduler
from app.inference.server import create_app
from app.services.inference_messages import ProbeAnswer, SaeRef
from app.services.inference_status import SECRET_HEADER
from app.settings import Settings
from sae_core.models import HookPoint
from tests.app.inference.dictionaries import Dictionary, publish
from tests.e2e.conftest import serving
from tests.web.site import app_of

SECRET = "a secret of tests"


@pytest.fixture
def settings(dictionary: Dictionary, database_url: str) -> Settings:
    return dictionary.settings.model_copy(update={"database_url": database_url, "inference_secret": SecretStr(SECRET)})


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inference") as client,
    ):
        yield client


async def test_healthz_needs_no_secret(service: httpx.AsyncClient) -> None:
    assert (await service.get("/healthz")).text == "ok\n"


@pytest.mark.parametrize(
    "headers", [{}, {SECRET_HEADER: ""}, {SECRET_HEADER: SECRET[:-1]}, {SECRET_HEADER: SECRET + "x"}]
)
async def test_requests_without_the_secret_are_refused(service: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await service.post("/probe", json={"text": "x"}, headers=headers)
    assert response.status_code == 403


async def test_the_event_loop_is_free_while_features_are_ranked(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def recorded(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return ranked(*arguments)

    monkeypatch.setattr("app.inference.answers.ranked", recorded)
    sae = SaeRef.of(await publish(engine, dictionary))
    body = {"sae": asdict(sae), "text": "best of times"}
    response = await service.post("/probe", json=body, headers={SECRET_HEADER: SECRET})
    assert response.status_code == 200
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_models_are_loaded_and_run_in_one_thread(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    for name in ("load", "probe"):
        method = getattr(ProbeEngine, name)

        def recorded(*arguments: Any, method: Any = method, **options: Any) -> Any:
            threads.add(threading.get_ident())
            return method(*arguments, **options)

        monkeypatch.setattr(ProbeEngine, name, recorded)
    sae = asdict(SaeRef.of(await publish(engine, dictionary)))
    headers = {SECRET_HEADER: SECRET}
    bodies = [{"sae": sae, "text": text} for text in ("best", "worst", "times")]
    texts = {"sae": sae, "feature": 0, "texts": ["best", "worst"]}
    answers = await asyncio.gather(
        *(service.post("/probe", json=body, headers=headers) for body in bodies),
        service.post("/texts", json=texts, headers=headers),
    )
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(threads) == 1


async def test_probes_answer_and_bad_requests_are_refused(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine
) -> None:
    sae = asdict(SaeRef.of(await publish(engine, dictionary)))
    headers = {SECRET_HEADER: SECRET}
    response = await service.post("/probe", json={"sae": sae, "text": "best of times"}, headers=headers)
    answer = ProbeAnswer.model_validate_json(response.content)
    assert answer.token_ids == dictionary.model.tokenize("best of times")
    statuses = [
        (await service.post("/probe", json=body, headers=headers)).status_code
        for body in ({"sae": sae["slug"], "text": "x"}, {"sae": sae}, {"sae": sae, "text": "x" * 9_000_000})
    ]
    assert statuses == [422, 422, 413]


async def test_a_warm_probe_reads_nothing_from_the_database(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine
) -> None:
    sae = asdict(SaeRef.of(await publish(engine, dictionary)))
    statements: list[str] = []
    event.listen(
        app_of(service).state.engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    answers = []
    for read in (True, False):
        statements.clear()
        answers.append(await service.post("/probe", json={"sae": sae, "text": "best"}, headers={SECRET_HEADER: SECRET}))
        assert bool(statements) == read
    assert answers[0].content == answers[1].content


async def test_a_failing_request_harms_no_other(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine
) -> None:
    sae = SaeRef.of(await publish(engine, dictionary))
    bad = [
        replace(sae, artifact="saes/gone"),
        replace(sae, hook="mlp_act.2"),
        replace(sae, d_sae=2**50, artifact="saes/huge"),
        replace(sae, model=replace(sae.model, source="/nowhere", weights_sha256="1")),
    ]

    async def ask(ref: SaeRef) -> int:
        body = {"sae": asdict(ref), "text": "best of times"}
        return (await service.post("/probe", json=body, headers={SECRET_HEADER: SECRET})).status_code

    statuses = await asyncio.gather(*(ask(ref) for pair in zip(bad, [sae] * 4, strict=True) for ref in pair))
    assert statuses[1::2] == [200] * 4
    assert statuses[::2] == [503, 503, 413, 503]


async def test_metrics_need_the_secret_and_count(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine
) -> None:
    sae = asdict(SaeRef.of(await publish(engine, dictionary)))
    assert (await service.get("/metrics")).status_code == 403
    for text in ("best of times", "times " * 150):
        await service.post("/probe", json={"sae": sae, "text": text}, headers={SECRET_HEADER: SECRET})
    lines = (await service.get("/metrics", headers={SECRET_HEADER: SECRET})).text.splitlines()
    assert 'seesae_inference_seconds_count{operation="probe"} 2.0' in lines
    assert 'seesae_inference_refusals_total{reason="TooLarge"} 1.0' in lines
    assert "seesae_inference_loads_total 2.0" in lines
    assert 'seesae_inference_waiting{queue="model"} 0.0' in lines
    [memory] = [float(line.split()[1]) for line in lines if line.startswith("seesae_inference_memory_bytes")]
    assert memory == app_of(service).state.residency.modules.nbytes > 0


@pytest.mark.parametrize(
    ("scheduler", "path", "body"),
    [
        ("scheduler", "/probe", {"text": "x"}),
        ("scheduler", "/texts", {"feature": 0, "texts": ["x"]}),
        ("draw_scheduler", "/examples", {"feature": 0, "low": 0, "high": 1, "limit": 1}),
    ],
)
async def test_a_request_that_finds_too_many_before_it_is_told_when_to_come_back(
    service: httpx.AsyncClient,
    dictionary: Dictionary,
    engine: AsyncEngine,
    scheduler: str,
    path: str,
    body: dict[str, Any],
) -> None:
    sae = await publish(engine, dictionary)
    named = sae.slug if path == "/examples" else asdict(SaeRef.of(sae))
    headers = {SECRET_HEADER: SECRET}
    if path != "/examples":  # loading takes a turn too
        assert (await service.post(path, json={"sae": named, **body}, headers=headers)).status_code == 200
    full = Scheduler(1, 0)
    setattr(app_of(service).state, scheduler, full)
    async with full.take():
        response = await service.post(path, json={"sae": named, **body}, headers=headers)
    assert (response.status_code, response.json()["title"]) == (503, "Busy right now")
    assert int(response.headers["Retry-After"]) >= 1


async def test_an_unreachable_database_is_a_503(settings: Settings, unused_tcp_port: int) -> None:
    away = settings.model_copy(update={"database_url": f"postgresql://127.0.0.1:{unused_tcp_port}/none"})
    app = create_app(away)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inference") as client:
        body = {"sae": "x", "feature": 0, "low": 0, "high": 1, "limit": 1}
        response = await client.post("/examples", json=body, headers={SECRET_HEADER: SECRET})
    assert response.status_code == 503
    assert "database" in response.json()["detail"]


@pytest.mark.parametrize("missing", ["inference_secret", "database_url"])
def test_it_does_not_start_without_required_settings(settings: Settings, missing: str) -> None:
    with pytest.raises(UserError, match=f"SEESAE_{missing.upper()}"):
        create_app(settings.model_copy(update={missing: None}))


def test_an_empty_secret_is_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match="SEESAE_INFERENCE_SECRET"):
        create_app(settings.model_copy(update={"inference_secret": SecretStr("")}))


@pytest.mark.slow
async def test_a_forward_pass_ends_with_its_client(
    settings: Settings, dictionary: Dictionary, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = await publish(engine, dictionary)
    entered, noticed, later = threading.Event(), threading.Event(), []

    async def until_gone(receive: Receive) -> None:
        await asgi.until_gone(receive)
        noticed.set()

    def wait_for_the_end(*_arguments: object) -> None:
        entered.set()
        assert noticed.wait(10)

    monkeypatch.setattr("app.inference.scheduler.until_gone", until_gone)
    body = {"sae": asdict(SaeRef.of(sae)), "text": "It was the best of times."}
    app = create_app(settings)
    with serving(app) as url:
        async with httpx.AsyncClient(base_url=url, headers={SECRET_HEADER: SECRET}, timeout=30) as client:
            whole = (await client.post("/probe", json=body)).json()
            with app.state.residency.use(SaeRef.of(sae)) as (model, _):
                blocks = [model.resolve(HookPoint("resid_post", layer))[0] for layer in (0, 1)]
            hooks = [
                blocks[0].register_forward_hook(wait_for_the_end),
                blocks[1].register_forward_hook(lambda *_: later.append(1)),
            ]
            asking = asyncio.create_task(client.post("/probe", json=body))
            assert await asyncio.to_thread(entered.wait, 10)
            asking.cancel()
            await asyncio.wait({asking})
            async with asyncio.timeout(10):
                while not app.state.scheduler._free:
                    await client.get("/healthz")
            assert not later
            for hook in hooks:
                hook.remove()
            assert (await client.post("/probe", json=body)).json() == whole
