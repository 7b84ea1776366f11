"""Pages of monitors, whose texts a real inference service scores."""

import httpx
import torch
from safetensors.torch import save
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.queries.monitors import AlertSource, add_scores, change_monitor, get_monitor
from app.services.vectors import pack_vector
from tests.app.inference.dictionaries import SLUG, Dictionary
from tests.monitors import add_alerts, add_monitor
from tests.web.html import parse

TEXT = "It was the best of times"


async def test_a_monitor_is_chosen_tried_and_answered_for(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary
) -> None:
    assert "No monitor yet" in (await probing.get("/monitors")).text
    async with transaction(create_sessionmaker(engine)) as session:
        await add_monitor(session, dictionary.row, own=dictionary.sae, threshold=-100.0, keep_text=True)  # type: ignore[arg-type]
    compared = await probing.get("/monitors/kings/candidates")
    page = parse(compared.text)
    assert "does better than the best SAE features" in page.text
    choices = [field["value"] for field in page.all("input", type="radio")]
    assert choices == ["probe-mean", "features-10"], "words cannot be chosen"
    rows = page.one("table", cls="monitor-table").one("tbody").all("tr")
    assert "0.950 (0.930 to 0.970)" in " ".join(rows[0].text.split())
    heads = [" ".join(head.text.split()) for head in page.one("table", cls="monitor-table").one("thead").all("th")]
    assert heads[1:5] == ["AUROC", "recall at its threshold", "benign that alert at its threshold", "recall at 1 %"]
    assert "3.0 % (0.60 % to 8.5 %)" in " ".join(rows[0].text.split())
    assert "too few texts" not in page.text and "recall at 0.1 %" not in heads
    assert "Recall at 0.1 % is not shown: these benign texts are too few" in " ".join(page.text.split())
    warned = [" ".join(item.text.split()) for item in page.one("ul", cls="monitor-cautions").all("li")]
    assert warned[0].startswith("A baseline does better"), "what concerns all candidates names none"
    assert warned[1].startswith("2 SAE features: The threshold does not hold on texts from elsewhere")
    assert (await probing.post("/monitors/kings", data={"candidate": "probe-mean"})).status_code == 303
    assert "a linear probe on raw activations" in (await probing.get("/monitors/kings")).text
    assert (await probing.post("/monitors/kings", data={"candidate": "words"})).status_code == 409
    assert (await probing.post("/monitors/kings", data={"candidate": "features-10"})).status_code == 303

    tried = await probing.post("/monitors/kings/check", data={"text": TEXT})
    page = parse(tried.text)
    assert "Alert: score" in " ".join(page.one("p", cls="monitor-result").text.split())
    assert page.all("p", cls="strip")[0].text.strip().endswith(TEXT)
    assert page.one("textarea", id="text").text.removeprefix("\n") == TEXT
    assert "Alerts by day" in tried.text
    assert (await probing.post("/monitors/kings/check", data={"text": " "})).status_code == 422
    async with transaction(create_sessionmaker(engine)) as session:
        ids = await add_alerts(session, "kings", text="<script>alert(1)</script>")
    response = await probing.get("/monitors/kings")
    assert "<script>alert" not in response.text and "<b>moods" not in response.text
    page = parse(response.text)
    assert "Clopper–Pearson" in page.text and "2 features with weights" in page.text
    said = " ".join(page.text.split())
    assert "alerts above −100, or −99.5 while a text grows" in said
    assert "17 of 400 pass −100, that of whole texts. So live, the threshold is −99.5: 2 of 400 are above it" in said
    assert "95 % interval 0.060 % to 1.8 %" in said and "held-out test texts, live" in said
    assert "the true rate" not in said
    async with transaction(create_sessionmaker(engine)) as session:
        monitor = await get_monitor(session, "kings")
        assert monitor is not None
        old = [{key: value for key, value in one.items() if key != "live"} for one in monitor.figures["candidates"]]
        await change_monitor(session, monitor.id, figures={**monitor.figures, "candidates": old})
    said = " ".join(parse((await probing.get("/monitors/kings")).text).text.split())
    assert "Its threshold is that of whole texts, for live use too" in said and "while a text grows" not in said
    assert len(page.one("ol", cls="monitor-alerts").all("li")) == 4
    assert (await probing.post(f"/monitors/kings/alerts/{ids[0]}", data={"note": "<i>ok"})).status_code == 303
    history = " ".join(parse((await probing.get("/monitors/kings")).text).one("ol", cls="acts").text.split())
    assert "acknowledged an alert of the monitor" in history and "The monitor alerted on 1 text" in history
    assert history.endswith("ada made the monitor " + history.rpartition("made the monitor ")[2])
    feed = parse((await probing.get("/activity", params={"monitor": "kings"})).text)
    assert "kings alerted on 3 texts" in " ".join(feed.text.split())
    assert "3 not acknowledged" in " ".join(parse((await probing.get("/monitors/kings")).text).text.split())
    listed = parse((await probing.get("/monitors")).text).one("a", cls="list-row")
    assert listed["href"] == "/monitors/kings" and "scores have drifted" in " ".join(listed.text.split())

    assert (await probing.post("/monitors/kings", data={"state": "paused"})).status_code == 303
    assert (await probing.post("/monitors/kings/check", data={"text": TEXT})).status_code == 409
    assert "Delete the monitor" in (await probing.get("/monitors/kings/delete")).text
    assert (await probing.post("/monitors/kings/delete")).status_code == 303
    assert (await probing.get("/monitors/kings")).status_code == 404
    feed = (await probing.get("/activity")).text
    assert "deleted the monitor" in feed and "/monitors/kings" not in feed


async def test_a_page_is_told_how_many_alerts_are_newer_than_those_it_shows(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary
) -> None:
    async with transaction(create_sessionmaker(engine)) as session:
        await add_monitor(session, dictionary.row, own=dictionary.sae)  # type: ignore[arg-type]
        await add_alerts(session, "kings", number=30)
    for query in ("", "?before=10"):  # an older page knows of the newest alert too
        page = parse((await probing.get(f"/monitors/kings{query}")).text)
        newer = page.one("div", cls="monitor-newer")
        assert newer.text.strip() == ""
        assert newer["data-after"] == "30"
    async with transaction(create_sessionmaker(engine)) as session:
        await add_alerts(session, "kings", number=1)
    told = parse((await probing.get(newer["data-live"])).text)
    assert told.text.strip() == "1 new alert · show"
    assert (await probing.get("/monitors/none/new")).status_code == 404


async def test_a_form_that_is_refused_keeps_what_was_written(probing: httpx.AsyncClient) -> None:
    recipe = parse((await probing.get("/monitors/new", params={"recipe": "toxic-text"})).text)
    assert recipe.one("input", id="positive")["value"] == "toxicity:toxic"
    sent = {"name": "mine", "sae": SLUG, "positive": "none:a", "benign": "none:b", "fpr": "0.05", "features": "3,5"}
    refused = await probing.post("/monitors", data=sent)
    assert refused.status_code == 404
    form = parse(refused.text)
    assert "no text set named “none”" in form.one("p", cls="error").text
    assert {name: form.one("input", id=name)["value"] for name in sent if name != "sae"} == {
        name: value for name, value in sent.items() if name != "sae"
    }

    assert form.all("a", href="/textsets/new")
    for name, words in (("Cooking Alarm", "Use small letters from a to z, digits, “.”"), ("7", "at least one letter")):
        refused = await probing.post("/monitors", data=sent | {"name": name})
        said = parse(refused.text).one("p", cls="error").text
        assert refused.status_code == 422 and words in said and "pattern" not in said
        by_api = {key: value for key, value in sent.items() if key != "features"} | {"name": name, "fpr": 0.05}
        answer = await probing.post("/api/v1/monitors", json=by_api)
        assert answer.status_code == 422 and words in answer.json()["detail"] and "pattern" not in answer.text

    vector = save({"v": torch.linspace(-1, 1, 5)})
    sent |= {"positive": "toxicity:toxic", "benign": "toxicity:benign", "features": ""}
    refused = await probing.post("/monitors", data=sent, files={"direction_file": ("mine.safetensors", vector)})
    assert refused.status_code == 422
    form = parse(refused.text)
    assert "The direction has 5 numbers, and" in form.one("p", cls="error").text
    assert form.one("input", name="direction")["value"] == pack_vector([-1, -0.5, 0, 0.5, 1])
    assert form.one("input", name="direction_name")["value"] == "mine.safetensors"
    for content, message in (
        (save({"v": torch.zeros(5)}), "zero everywhere"),
        (save({"v": torch.tensor([1e300], dtype=torch.float64)}), "too large for float32"),
        (b"no", "not a safetensors file"),
    ):
        refused = await probing.post("/monitors", data=sent, files={"direction_file": ("mine.safetensors", content)})
        assert refused.status_code == 422 and message in parse(refused.text).one("p", cls="error").text
    for numbers, message in (([0.0] * 5, "zero everywhere"), ([1.0] * 5, "The direction has 5 numbers")):
        asked = {name: value for name, value in sent.items() if value} | {"fpr": 0.05, "direction": numbers}
        answer = await probing.post("/api/v1/monitors", json=asked)
        assert answer.status_code == 422 and message in answer.text


async def test_drift_is_of_what_is_watched_and_says_when_it_cannot_tell(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary
) -> None:
    async def shown(scores: list[float], source: AlertSource) -> tuple[str, str]:
        async with transaction(create_sessionmaker(engine)) as session:
            monitor = await get_monitor(session, "kings")
            assert monitor is not None
            await add_scores(session, monitor.id, scores, [], source=source)
        page, listed = (await probing.get("/monitors/kings")).text, (await probing.get("/monitors")).text
        drift = parse(page).one("section", aria_labelledby="drift").one("p").text
        return " ".join(drift.split()), " ".join(parse(listed).one("a", cls="list-row").text.split())

    async with transaction(create_sessionmaker(engine)) as session:
        await add_monitor(session, dictionary.row, own=dictionary.sae, threshold=1.005)  # type: ignore[arg-type]
    said, row = await shown([9.0] * 50, "check")
    assert said.startswith("No text of a scan or a live answer was scored yet") and "drifted" not in row
    said, row = await shown([0.5], "live")
    assert said.startswith("There are not enough texts to tell") and "certain" not in said and "drifted" not in row
    said, row = await shown([number / 100 for number in range(100)], "scan")
    assert said.startswith("No drift is shown: on the newest 101 texts of scans and live answers")
    assert "Texts that people check do not count" in said and "drifted" not in row
    said, row = await shown([2.0] * 50, "live")
    assert said.startswith("The scores have changed") and "scores have drifted" in row


async def test_equal_thresholds_are_said_once(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary
) -> None:
    async with transaction(create_sessionmaker(engine)) as session:
        await add_monitor(session, dictionary.row, own=dictionary.sae, threshold=5.73)  # type: ignore[arg-type]
        monitor = await get_monitor(session, "kings")
        assert monitor is not None
        same = [
            one | {"live": one["live"] and one["live"] | {"threshold": 5.73}} for one in monitor.figures["candidates"]
        ]
        await change_monitor(session, monitor.id, figures={**monitor.figures, "candidates": same})
    page = parse((await probing.get("/monitors/kings")).text)
    assert " ".join(page.one("p", cls="lead").text.split()).endswith("and alerts above 5.73.")
    said = " ".join(page.text.split())
    assert "Here the threshold is the same live: 2 of 400 are above it on their way, 95 % interval" in said


async def test_many_alerts_are_acknowledged_at_once_and_those_left_are_found(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary
) -> None:
    async with transaction(create_sessionmaker(engine)) as session:
        await add_monitor(session, dictionary.row, own=dictionary.sae)  # type: ignore[arg-type]
        ids = await add_alerts(session, "kings", number=23)
    left = "/monitors/kings?acknowledged=no"
    page = parse((await probing.get("/monitors/kings")).text)
    assert len(page.one("ol", cls="monitor-alerts").all("li")) == 20
    assert page.all("a", href=f"{left}#alerts")
    shown = [field["value"] for field in page.all("input", type="hidden", name="alert")]
    assert shown == [str(one) for one in reversed(ids[3:])]
    assert "Acknowledge all 20 shown" in page.text
    older = parse((await probing.get(left)).text).one("a", **{"data-more": None})["href"]
    assert older == f"{left}&before={ids[3]}#alerts"
    assert (await probing.post("/monitors/kings/acknowledge", data={"alert": shown})).status_code == 303
    page = parse((await probing.get(left)).text)
    assert len(page.one("ol", cls="monitor-alerts").all("li")) == 3
    rest = [field["value"] for field in page.all("input", type="hidden", name="alert")]
    assert (await probing.post("/monitors/kings/acknowledge", data={"alert": rest})).status_code == 303
    assert "Somebody has acknowledged each alert" in (await probing.get(left)).text
    assert len(parse((await probing.get("/monitors/kings")).text).one("ol", cls="monitor-alerts").all("li")) == 20
    for wrong, status in (([], 422), (["x"], 422), (["999"], 404)):
        answer = await probing.post("/monitors/kings/acknowledge", data={"alert": wrong})
        assert answer.status_code == status, answer.text[-300:]
    assert (await probing.get("/monitors/kings?acknowledged=yes")).status_code == 422
