import json

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from app.database_url import connection_params
from app.db import DRIVER, create_sessionmaker
from app.queries.runs import MetricPoint, Stage, append_metrics, create_run, finish_run, start_run, update_progress
from app.runs.jobs import enqueue
from app.runs.spec import specs
from app.settings import Settings
from app.web.components.run_card import card, stage_view
from app.web.pages.runs import run_events
from tests.factories import Synthetic, add_run
from tests.monitors import performance
from tests.web.html import parse
from tests.web.site import site


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
    assert "50.0" in live.one("div", cls="run-card").text
    assert [link["href"] for link in live.all("a")] == [f"/runs/{runs[2].id}", f"/runs/{runs[2].id}/cancel"]
    rows = page.all("li", cls="run-row")
    links = [[link["href"] for link in row.all("a")] for row in rows]
    assert links == [[f"/runs/{runs[1].id}", f"/runs/{runs[1].id}/retry"], [f"/runs/{runs[0].id}"]]
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


LEADS = {
    "add-text-set": "/textsets/moods",
    "audit": "/audits/7",
    "compare": "/compare?a={sae}&b=another",
    "compare-texts": "/saes/{sae}/compare-texts/9",
    "effects": "/saes/{sae}/features?sort=effect",
    "measure-edit": "/edits/calm",
    "monitor": "/monitors/kings/candidates",
    "monitor-scan": "/monitors/kings",
    "read-texts": "/textsets/moods",
    "test-labels": "/saes/{sae}/features?label=labelled",
}
OF_SAES = {"demo", "evaluate", "import", "index", "suggest", "train"}
"""Kinds whose runs lead to their SAE."""
NO_PAGE = {"export"}
"""Kinds that make files, which have no page."""


async def test_a_finished_run_of_any_kind_leads_on_to_what_it_made(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    assert {spec.kind for spec in specs()} == LEADS.keys() | OF_SAES | NO_PAGE
    result = {
        "sae": made.sae.slug,
        "other": "another",
        "audit": 7,
        "comparison": 9,
        "edit": "calm",
        "monitor": "kings",
        "textset": "moods",
    }
    shown = {}
    for kind in LEADS:
        run = await create_run(session, kind=kind, title=kind, params={}, stages=[], created_by="ada")
        await start_run(session, run.id)
        await finish_run(session, run.id, result)
        shown[kind] = run.id
    old = await create_run(session, kind="monitor", title="Of old", params={}, stages=[], created_by="ada")
    await start_run(session, old.id)
    await finish_run(session, old.id, {"texts": 3})
    await session.commit()
    for kind, address in LEADS.items():
        (link,) = parse((await client.get(f"/runs/{shown[kind]}")).text).all("a", cls="primary")
        assert link["href"] == address.format(sae=made.sae.slug), kind
        answer = await client.get(link["href"])
        assert answer.status_code in (200, 404), (kind, answer.text[-500:])
        assert "There is nothing at this address" not in answer.text, kind
    assert not list(parse((await client.get(f"/runs/{old.id}")).text).all("a", cls="primary"))


async def test_the_result_of_a_monitor_is_short_and_names_features_by_number(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    run = await create_run(session, kind="monitor", title="M", params={"features": [4071]}, stages=[], created_by="ada")
    await start_run(session, run.id)
    result = {"monitor": "kings", "candidate": "feature", "title": "One SAE feature", "features": [4071]}
    figures = {"threshold": 5.73, "calibration": {"texts": 400}, "baselines": [], "page": "/monitors/kings"}
    await finish_run(session, run.id, {**result, **figures, "test": performance(0.9), "out_of_distribution": None})
    await session.commit()
    shown, params = parse((await client.get(f"/runs/{run.id}")).text).all("dl", cls="facts")
    names = [" ".join(one.text.split()) for one in shown.all("dt")]
    values = [" ".join(one.text.split()) for one in shown.all("dd")]
    assert dict(zip(names, values, strict=True)) == {
        "monitor": "kings",
        "candidate chosen": "One SAE feature",
        "feature": "4071",
        "threshold": "5.73",
        "AUROC": "0.900 (0.880 to 0.920)",
        "recall at the threshold": "3.0 % (0.60 % to 8.5 %)",
        "benign that alert": "3.0 % (0.60 % to 8.5 %)",
    }
    assert params.one("dd").text == "4071"


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
    assert parse(got[0][1]).one("a", cls="run-card-link")["href"] == f"/runs/{run.id}"


def test_a_running_stage_shows_its_rate_and_time_left() -> None:
    half = stage_view(Stage("train", "Train", "running", 50, 100, "tokens", 10.0))
    assert (half.rate, half.seconds_left) == (5.0, 10.0)
    assert stage_view(Stage("train", "Train", "running", 0, 100, "tokens", 0.0)).seconds_left is None
    assert stage_view(Stage("train", "Train", "running", 7, 0, "tokens", 1.0)).seconds_left is None


async def test_a_running_run_says_how_long_it_takes(client: httpx.AsyncClient, session: AsyncSession) -> None:
    stages = [
        Stage("activations", "Run", "running", 0, 3000, "tokens", expected=60.0),
        Stage("publish", "Publish", expected=90.0),
        Stage("map", "Map", expected=300.0),
    ]
    run = await create_run(session, kind="index", title="I", params={}, stages=stages, created_by="ada")
    await start_run(session, run.id)
    await session.commit()
    text = parse((await client.get(f"/runs/{run.id}")).text).one("main").text
    assert "This machine runs the model at 50 tokens/s. The features are here in about 2 min 30 s, all is" in text


async def test_a_stage_without_a_unit_shows_its_time_alone(client: httpx.AsyncClient, session: AsyncSession) -> None:
    stages = [
        Stage("read", "Read", "done", 1234, 1234, "texts", 10.0),
        Stage("publish", "Publish", "done", 1000, 1000, "", 20.0),
        Stage("audit", "Audit", "running", 500, 1000, "", 60.0),
    ]
    run = await create_run(session, kind="audit", title="A", params={}, stages=stages, created_by="ada")
    await start_run(session, run.id)
    await session.commit()
    page = parse((await client.get(f"/runs/{run.id}")).text)
    assert [one.text for one in page.all("span", cls="stage-count")] == ["1,234 texts", "", ""]
    assert [one.text.replace("\u202f", " ") for one in page.all("span", cls="stage-time")] == [
        "10 s",
        "20 s",
        "1 min 0 s left",
    ]


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
    assert "Queued" in page.one("div", cls="run-line").text
    assert "seesae worker" in page.one("div", cls="run-idle").text  # there is none


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
    trained = page.one("section", aria_labelledby="run-saes")
    assert [link["href"] for link in trained.all("a")] == ["/saes/wide", "/saes/narrow"]
    assert [link["href"] for link in page.one("ul", cls="series").all("a")] == ["/saes/wide", "/saes/narrow"]
    loss = json.loads(page.one("figure", data_metric="loss").one("script").text)
    assert [line["meta"] for line in loss["data"]] == ["wide/loss", "narrow/loss"]
    assert len({line["line"]["color"] for line in loss["data"]}) == 2
    assert "One <b>note</b>." in page.one("section", aria_labelledby="notes").text
    assert "16, 32" in page.one("main").text


async def queue(session: AsyncSession, title: str, kind: str = "compare") -> int:
    """Put a run in the queue."""
    params = {"a": title, "b": "other"}
    stages = [Stage("compare", "Compare")]
    run = await create_run(session, kind=kind, title=title, params=params, stages=stages, created_by="ada")
    await enqueue(session, run.id)
    return run.id


async def test_the_list_is_filtered_by_plain_links_and_paged_with_the_filters_kept(
    client: httpx.AsyncClient, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.pages.runs._PAGE", 2)
    for number in range(6):
        run = await create_run(
            session, kind=("train", "index")[number % 2], title=f"Run {number}", params={}, stages=(), created_by="ada"
        )
        await start_run(session, run.id)
        await finish_run(session, run.id, {})
    await session.commit()
    page = parse((await client.get("/runs?state=done&kind=index")).text)
    assert [row.one("a", data_row=None).text for row in page.all("li", cls="run-row")] == ["Run 5", "Run 3"]
    states, kinds = page.all("nav", cls="run-filter")
    assert states.one("a", aria_current="true").text == "done"
    assert states.one("a", href="/runs?kind=index").text == "any"
    assert states.one("a", href="/runs?state=failed&kind=index").text == "failed"
    assert kinds.one("a", aria_current="true").text == "index"
    assert kinds.one("a", href="/runs?state=done").text == "any"
    more = page.one("p", cls="more").one("a")["href"]
    assert more.startswith("/runs?state=done&kind=index&before=")
    rest = parse((await client.get(more)).text)
    assert [row.one("a", data_row=None).text for row in rest.all("li", cls="run-row")] == ["Run 1"]
    assert not rest.all("p", cls="more")
    none = parse((await client.get("/runs?state=failed&kind=index")).text)
    assert "There are no such runs." in none.one("main").text
    assert none.all("nav", cls="run-filter")
    assert (await client.get("/runs?state=asleep")).status_code == 422


async def test_queued_runs_say_their_turn_and_that_no_worker_takes_them(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    first, second = await queue(session, "one"), await queue(session, "two")
    await session.commit()
    assert "next in the queue" in parse((await client.get(f"/runs/{first}")).text).one("div", cls="run-line").text
    page = parse((await client.get(f"/runs/{second}")).text)
    assert "number 2 in the queue" in page.one("div", cls="run-line").text
    assert page.one("div", cls="run-idle")
    listed = parse((await client.get("/runs")).text)
    assert listed.one("div", cls="run-idle")
    assert [entry.line for entry in listed.all("span", cls="number") if "queue" in entry.text] == [
        "next in the queue",
        "number 2 in the queue",
    ]
    await session.execute(text("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now())"))
    await session.commit()
    for path in ("/runs", f"/runs/{second}", "/runs/new"):
        assert not parse((await client.get(path)).text).all("div", cls="run-idle")


async def test_a_run_shows_the_worker_that_does_it(client: httpx.AsyncClient, session: AsyncSession) -> None:
    run = await queue(session, "one")
    await start_run(session, run, worker="thalia, process 12")
    await session.commit()
    assert "on thalia, process 12" in parse((await client.get(f"/runs/{run}")).text).one("div", cls="run-line").text
    await finish_run(session, run, {})
    await session.commit()
    assert "on thalia, process 12" in parse((await client.get("/runs")).text).one("li", cls="run-row").text


async def test_cancel_and_retry_ask_first_and_say_what_is_kept(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    waiting = await queue(session, "one")
    running = await add_run(session, made.sae, ends="running")
    await session.commit()
    assert "nothing is lost" in parse((await client.get(f"/runs/{waiting}/cancel")).text).one("main").text
    asked = parse((await client.get(f"/runs/{running.id}/cancel")).text)
    assert "Finished stages are kept" in asked.one("main").text
    assert "has done since then is lost" in asked.one("main").text
    for run in (waiting, running.id):
        answer = await client.post(f"/runs/{run}/cancel")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{run}")
    assert (await client.post(f"/runs/{waiting}/cancel")).status_code == 409
    assert (await client.get(f"/runs/{waiting}/cancel")).status_code == 409
    page = parse((await client.get(f"/runs/{waiting}")).text)
    assert page.one("span", cls="cancelled").text == "Cancelled"
    assert page.one("a", cls="run-button")["href"] == f"/runs/{waiting}/retry"

    asked = parse((await client.get(f"/runs/{waiting}/retry")).text)
    assert "it starts with its first stage" in asked.one("main").text
    assert asked.one("a", href="/runs/new/compare?a=one&b=other").text == "Change its parameters"
    assert (await client.post(f"/runs/{waiting}/retry")).headers["location"] == f"/runs/{waiting}"
    assert "Queued" in parse((await client.get(f"/runs/{waiting}")).text).one("div", cls="run-line").text
    assert (await client.post(f"/runs/{waiting}/retry")).status_code == 409
    for path in ("/runs/999/cancel", "/runs/999/retry"):
        assert (await client.get(path)).status_code == 404
        assert (await client.post(path)).status_code == 404


async def test_where_visitors_may_not_submit_there_are_no_buttons(settings: Settings, session: AsyncSession) -> None:
    run = await queue(session, "one")
    failed = await add_run(session, None, ends="failed")
    await session.commit()
    async with site(settings.model_copy(update={"submit_runs": False})) as client:
        for path in ("/", "/runs", f"/runs/{run}", f"/runs/{failed.id}"):
            links = [link["href"] for link in parse((await client.get(path)).text).all("a")]
            assert not [link for link in links if link.startswith("/runs/new") or link.endswith(("/cancel", "/retry"))]
        page = parse((await client.get(f"/runs/{failed.id}")).text)
        assert "Start the same command again" in page.one("div", cls="error").text
        for path in ("/runs/new", "/runs/new/index", f"/runs/{run}/cancel", f"/runs/{failed.id}/retry"):
            for answer in (await client.get(path), await client.post(path)):
                if answer.status_code != 405:
                    assert answer.status_code == 403
                    assert "SEESAE_SUBMIT_RUNS" in parse(answer.text).one("main").text
        assert "queued" in parse((await client.get("/runs")).text).one("main").text
