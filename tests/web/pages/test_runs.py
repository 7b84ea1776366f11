import json

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from app.db import DRIVER, connection_params, create_sessionmaker
from app.queries.runs import MetricPoint, Stage, append_metrics, create_run, finish_run, start_run, update_progress
from app.web.components.run_card import card, stage_view
from app.web.pages.runs import run_events
from tests.factories import Synthetic, add_run
from tests.web.html import parse


def events(body: str) -> list[tuple[str, str]]:
    """Names and data of server-sent events."""
    found = []
    for block in body.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name = lines[0].removeprefix("event: ")
            found.append((name, "\n".join(line.removeprefix("data: ") for line in lines[1:])))
    return found


async def test_without_runs_the_page_says_how_to_start(client: httpx.AsyncClient) -> None:
    assert "Nothing has run yet" in (await client.get("/runs")).text


async def test_runs_are_listed(client: httpx.AsyncClient, made: Synthetic, session: AsyncSession) -> None:
    runs = [await add_run(session, made.sae, ends=ends) for ends in ("done", "failed", "running")]
    await session.commit()
    page = parse((await client.get("/runs")).text)
    live = page.one("section", cls="run-live")
    assert live["sse-connect"] == f"/runs/{runs[2].id}/events?view=card"
    assert "50.0" in live.one("a", cls="run-card").text
    rows = page.all("a", cls="run-row")
    assert [row["href"] for row in rows] == [f"/runs/{runs[1].id}", f"/runs/{runs[0].id}"]
    assert [row.one("span", cls="state").text for row in rows] == ["failed", "done"]
    assert "lower the learning rate" in rows[0].text


async def test_a_finished_run_shows_its_result(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    run = await add_run(session, made.sae)
    await session.commit()
    page = parse((await client.get(f"/runs/{run.id}")).text)
    text = " ".join(page.one("main").text.split()).replace("\u202f", " ")
    assert "sse-connect" not in {name for element in page.all() for name in element.attributes}
    assert "explained variance0.810" in text
    assert "seconds" not in text  # the stages say them
    assert page.one("main").all("a", href=f"/saes/{made.sae.slug}/features")
    assert len(page.all("figure", cls="chart")) == 4


async def test_a_failed_run_says_why_and_what_to_do(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    run = await add_run(session, made.sae, ends="failed")
    await session.commit()
    page = parse((await client.get(f"/runs/{run.id}")).text)
    assert "lower the learning rate" in page.one("div", cls="error").text
    assert "continues from there" in page.one("div", cls="error").text


@pytest.mark.parametrize(
    "path", ["/runs/1", "/runs/0", "/runs/99999999999", "/runs/x", "/runs/1/events", "/runs?before=x"]
)
async def test_an_unknown_run_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code in (404, 422)
    assert parse(response.text).one("h1")


async def test_a_running_run_streams_until_it_ends(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    """ASGITransport gives the whole body at the end, so the run ends while it is being streamed."""
    run = await add_run(session, made.sae, ends="running")
    await session.commit()
    page = parse((await client.get(f"/runs/{run.id}")).text)
    address = page.one("div", hx_ext="sse")["sse-connect"]
    assert address == f"/runs/{run.id}/events?after={29 * 50}"

    await append_metrics(session, run.id, [MetricPoint(5000, {"loss": 0.2})])
    await finish_run(session, run.id, {"l0": 32.1})
    await session.commit()
    response = await client.get(address)
    assert response.headers["content-type"].startswith("text/event-stream")
    got = events(response.text)
    assert [name for name, _ in got] == ["metrics", "progress", "end"]
    assert json.loads(got[0][1]) == [{"step": 5000, "values": {"loss": 0.2}}]
    progress = parse(got[1][1])
    assert progress.one("span", cls="done").text == "Done"
    assert progress.all("a", href=f"/saes/{made.sae.slug}/features")


async def test_each_point_is_sent_once(
    made: Synthetic, session: AsyncSession, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    run = await add_run(session, made.sae, ends="running")
    await session.commit()
    stream = run_events(sessionmaker, run.id, "progress", 1400)
    first = await anext(stream)
    assert first.event == "metrics"
    assert [point["step"] for point in json.loads(first.raw_data or "")] == [1450]
    assert (await anext(stream)).event == "progress"
    await append_metrics(session, run.id, [MetricPoint(5000, {"loss": 0.2})])
    await finish_run(session, run.id, {})
    await session.commit()
    rest = [(event.event, event.raw_data) async for event in stream]
    assert rest[0] == ("metrics", json.dumps([{"step": 5000, "values": {"loss": 0.2}}]))
    assert [name for name, _ in rest[1:]] == ["progress", "end"]


async def test_a_stream_ends_where_the_pool_has_no_connection(made: Synthetic, database_url: str) -> None:
    engine = create_async_engine(
        DRIVER, connect_args=connection_params(database_url), pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    async with engine.connect():
        events = [event async for event in run_events(create_sessionmaker(engine), 1, "progress", -1)]
    assert events == []  # without an `end`, the browser connects again
    await engine.dispose()


async def test_a_page_without_curves_gets_the_charts_first(client: httpx.AsyncClient, session: AsyncSession) -> None:
    run = await add_run(session, None, ends="failed")
    await session.commit()
    got = events((await client.get(f"/runs/{run.id}/events")).text)
    assert [name for name, _ in got] == ["curves", "progress", "end"]
    assert len(parse(got[0][1]).all("figure")) == 4


async def test_the_first_page_gets_cards(client: httpx.AsyncClient, session: AsyncSession) -> None:
    run = await add_run(session, None, ends="failed")
    await session.commit()
    got = events((await client.get(f"/runs/{run.id}/events?view=card")).text)
    assert [name for name, _ in got] == ["card", "end"]
    assert parse(got[0][1]).one("a", cls="run-card")["href"] == f"/runs/{run.id}"


def test_a_running_stage_shows_its_rate_and_time_left() -> None:
    half = stage_view(Stage("train", "Train", "running", 50, 100, "tokens", 10.0))
    assert (half.rate, half.seconds_left) == (5.0, 10.0)
    assert stage_view(Stage("train", "Train", "running", 0, 100, "tokens", 0.0)).seconds_left is None
    assert stage_view(Stage("train", "Train", "running", 7, 0, "tokens", 1.0)).seconds_left is None


async def test_a_queued_run_waits_for_a_worker(client: httpx.AsyncClient, session: AsyncSession) -> None:
    run = await create_run(
        session,
        kind="index",
        title="Index <b>",
        params={"a": {"b": [1]}},
        stages=[Stage("i", "Index")],
        created_by="ada",
    )
    await update_progress(session, run.id, [Stage("i", "Index")])
    await session.commit()
    assert card(run).current is None
    page = parse((await client.get(f"/runs/{run.id}")).text)
    assert page.one("h1").text == "Index <b>"
    assert "Waiting for a worker" in page.text


async def test_a_run_that_trained_several_saes_shows_each_with_its_curve(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    run = await create_run(session, kind="train", title="Two", params={"k": [16, 32]}, stages=(), created_by="ada")
    await start_run(session, run.id)
    values = {f"{name}/{metric}": 0.5 for name in ("wide", "narrow") for metric in ("loss", "l0")}
    await append_metrics(session, run.id, [MetricPoint(step, values) for step in (1, 2)])
    saes = [{"sae": name, "features": 8192, "explained_variance": 0.8, "l0": 32.0} for name in ("wide", "narrow")]
    await finish_run(session, run.id, {"saes": saes, "notes": ["One <b>note</b>."], "seconds": {}})
    await session.commit()
    page = parse((await client.get(f"/runs/{run.id}")).text)
    trained = page.one("section", aria_labelledby="trained")
    assert [link["href"] for link in trained.all("a")] == ["/saes/wide", "/saes/narrow"]
    assert [link["href"] for link in page.one("ul", cls="series").all("a")] == ["/saes/wide", "/saes/narrow"]
    loss = json.loads(page.one("figure", data_metric="loss").one("script").text)
    assert [line["meta"] for line in loss["data"]] == ["wide/loss", "narrow/loss"]
    assert len({line["line"]["color"] for line in loss["data"]}) == 2
    assert "One <b>note</b>." in page.one("section", aria_labelledby="notes").text
    assert "16, 32" in page.one("main").text
