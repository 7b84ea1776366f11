"""Hostile text in every field that people and models write, and every page and download that shows it."""

import csv
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import ARRAY, String, Text, cast, func, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from app.db import create_sessionmaker, transaction
from app.queries.edits import NewEdit, add_edit
from app.queries.runs import fail_run
from app.queries.suggestions import NewSuggestion, put_suggestion
from app.queries.text_comparisons import NewTextComparison, add_text_comparison
from app.services.actors import Actor, Role
from app.services.monitors import acknowledge, change_monitor, find_monitor
from app.settings import Settings
from app.tables.base import Base
from tests.audits import add_audit, hostile_audit
from tests.blind import FEW_TOKENS, OPTIONS, add_test
from tests.factories import Synthetic, add_label, add_run, make_sae
from tests.monitors import add_alerts, add_monitor
from tests.people import sign_in
from tests.text_comparisons import FEATURES, detail, make_reading
from tests.text_sets import make_text_set
from tests.web.site import site
from tests.web.test_fuzz import ROUTES

pytestmark = pytest.mark.slow

NOT_WRITTEN_BY_PEOPLE = {
    # Models, corpora, SAEs and what is computed from them: tests/synthetic.py and test_imported.py are about these.
    *("blind_test_item", "blind_test_result", "comparison", "corpus", "document", "feature", "feature_effect"),
    *("feature_index", "feature_map", "language_model", "run_metric", "sae", "sae_claim", "sequence_set"),
    *("text_comparison_feature", "text_set_feature", "text_set_reading"),
    # Keys, words from a fixed set, and what no page shows.
    *("activity", "deleted_folder", "invitation", "llm_answer", "rate_limit", "run_use", "saved_edit_sae"),
    *(
        "api_token.scope",
        "audit.measure",
        "audit.sae",
        "blind_test.kind",
        "label.status",
        "label_decision.labels",
        "label_revision.act",
        "label_revision.status",
    ),
    *("monitor.candidate", "monitor.files", "monitor.model", "monitor.name", "monitor.pool", "monitor.sae"),
    *("monitor.sae_sha256", "monitor.state", "monitor.tokens", "monitor_alert.sha256", "monitor_alert.source"),
    "monitor_scores.source",
    *("label_set.label_order", "label_set.scope", "person.oidc_issuer", "person.oidc_subject", "person.password_hash"),
    *("person.role", "run.kind", "run.params", "run.result", "run.stages", "run.state", "run.worker"),
    *("saved_edit.file", "saved_edit.interventions", "saved_edit.measured", "saved_edit.name", "saved_list.public_id"),
    *("saved_probe.public_id", "suggestion.key", "suggestion.prompt", "suggestion.scores", "suggestion.source"),
    *("text_set.hash", "text_set.name", "text_set_item.split"),
    *("webhook.kinds", "webhook.monitor", "webhook.secret", "webhook_delivery.state"),
}
"""Tables and columns; every other column of text must hold hostile text when the test reads the site."""


DELIVERY = """
INSERT INTO webhook_delivery (webhook_id, activity_id, state, error)
SELECT webhook.id, activity.id, 'failed', :error FROM webhook, activity LIMIT 1
ON CONFLICT (webhook_id, activity_id) DO UPDATE SET error = excluded.error
"""


class Hostile:
    """Texts that are dangerous in HTML, markdown and spreadsheets; each has a number, to find where it is shown."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self.written: dict[str, str] = {}

    def name(self, where: str) -> str:
        """One line of at most 40 characters."""
        marker = f"zq({next(self.numbers)})"
        self.written[marker] = where
        return f"={marker}\"'><script>zq()</script>"

    def text(self, where: str) -> str:
        """Several lines, which begin as a formula."""
        lines = ["</textarea></script><img src=x onerror=zq()>", "[a](javascript:zq()) <javascript:zq()>", "![b](x)"]
        return "\n\n".join([self.name(where), *lines, "\u202eevil\u2066 \x1b\x08", "W" * 300])


@dataclass
class Read(HTMLParser):
    """What a browser would find on a page."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.words += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def check_page(html: str) -> str:
    """Fail if a page has what only hostile text brings; return what it shows."""
    page = Read()
    page.feed(html)
    page.close()
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or "zq" in name], (tag, attributes)
        assert tag != "script" or "src" in attributes or attributes.get("type") == "application/json"
        assert attributes.get("src") != "x"
        for name in ("href", "src", "action", "formaction", "hx-get", "hx-post"):
            address = "".join(attributes.get(name, "").split()).lower()
            assert not address.startswith(("javascript:", "data:", "vbscript:")), (tag, attributes)
    return "\n".join(page.words)


def check_csv(content: str) -> str:
    """Fail if a spreadsheet would run a cell; return all cells."""
    cells = [cell for row in csv.reader(io.StringIO(content)) for cell in row]
    for cell in cells:
        if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
            float(cell)
    return "\n".join(cells)


def check(response: httpx.Response) -> str:
    """Return what an answer shows, read as what it says it is."""
    kind = response.headers["content-type"].partition(";")[0]
    assert response.headers["x-content-type-options"] == "nosniff"
    if kind == "text/html":
        return check_page(response.text)
    if kind == "text/csv":
        return check_csv(response.text)
    if kind == "application/jsonl":
        return "\n".join(json.dumps(json.loads(line), ensure_ascii=False) for line in response.text.splitlines())
    if kind in ("application/json", "application/problem+json"):
        return json.dumps(response.json(), ensure_ascii=False)
    assert kind == "text/plain", response.headers
    return response.text


async def written_by_people(session: AsyncSession, hostile: Hostile, made: Synthetic) -> None:
    """Write what other processes and the command line write for people."""
    run = await add_run(session, made.sae, ends="running")
    title = {"title": hostile.name("run"), "by": hostile.name("run, by"), "id": run.id}
    await session.execute(text("UPDATE run SET title = :title, created_by = :by WHERE id = :id"), title)
    await fail_run(session, run.id, hostile.name("error of a run"))
    suggestions = {
        3: {"text": hostile.text("suggestion"), "model": hostile.name("model of a suggestion")},
        4: {"error": hostile.name("error of a suggestion")},
    }
    for feature, one in suggestions.items():
        new = NewSuggestion(str(feature), "model", **one)
        await put_suggestion(session, made.sae, feature, new, run_id=run.id)
    label = await add_label(session, made.sae, FEW_TOKENS, hostile.text("tested label"), author="ada")
    await add_test(session, made, "detection", label=label, testers=("grace",))
    change = {"op": "clamp", "value": 30.0, "feature": 7, "direction": None, "positions": "all"}
    more = {"special_tokens": False, "random_direction": None, "sae": made.sae.slug}
    prompts = [{"text": hostile.text("prompt"), "before": hostile.text("before"), "after": hostile.text("after")}]
    new_edit = NewEdit(
        title=hostile.name("edit"),
        author=hostile.name("author of an edit"),
        owner_id=1,
        notes=hostile.text("notes"),
        model_id=made.sae.model.id,
        saes=[(made.sae.id, made.sae.slug)],
        interventions=[change | more],
        prompts=prompts,
        checks={"prompts": [{"prompt": hostile.text("check"), "expected": "a", "forbidden": None}]},
        file="{}",
    )
    assert await add_edit(session, "edit", new_edit)
    await add_audit(session, made.sae, run.id, **hostile_audit(hostile))
    monitor = await add_monitor(
        session,
        made.sae,
        keep_text=True,
        positive=hostile.name("positive texts"),
        note=hostile.text("note of a monitor's figures"),
    )
    words = {"text": hostile.text("text of an alert"), "token": hostile.name("token of an alert")}
    alerts = await add_alerts(session, monitor, **words, place=hostile.name("place of an alert"))
    found = await find_monitor(session, monitor)
    await change_monitor(session, found, actor=Actor("ada"), notes=hostile.text("notes of a monitor"))
    await acknowledge(session, found, alerts[0], actor=Actor("ada"), note=hostile.text("note on an alert"))
    labels = [hostile.name("label a of texts"), hostile.name("label b of texts")]
    items = [(f"text {number} of {side}", label) for side, label in enumerate(labels) for number in range(12)]
    view = await make_text_set(session, "texts", items)
    await make_reading(session, made.sae, view)
    word = {**detail()["words"][0], "word": hostile.name("word that distinguishes")}
    note = hostile.text("note of a comparison of texts")
    sides = {"a_set_id": view.id, "a_label": labels[0], "b_set_id": view.id, "b_label": labels[1]}
    kept = detail(words=[word], notes=[note])
    comparison = NewTextComparison(sae_id=made.sae.id, run_id=run.id, detail=kept, **sides)
    await add_text_comparison(session, comparison, FEATURES)


async def written_by_browsers(client: httpx.AsyncClient, hostile: Hostile, slug: str, name: str) -> dict[str, str]:
    """Write every field that the site takes; return what stands for names in addresses."""
    feature = f"/saes/{slug}/features/3"

    async def send(method: str, address: str, **sent: Any) -> httpx.Response:
        response = await client.request(method, address, **sent)
        assert response.status_code < 400 or response.status_code == 503, (address, response.text)
        return response

    guideline = {"text": hostile.text("guideline"), "categories": [hostile.name("category of a guideline")]}
    new_set = {"sae": slug, "name": hostile.name("label set"), "guideline": guideline, "scope": {"features": [2, 3]}}
    label_set = (await send("POST", "/api/v1/labelsets", json=new_set)).json()
    label = {"explanation": hostile.text("label"), "categories": [hostile.name("category")]}
    await send("PUT", f"/api/v1{feature}/labels/mine", json=label)
    in_set = {"explanation": hostile.text("label in a set"), "categories": guideline["categories"]}
    await send("PUT", f"/api/v1{feature}/labels/mine", json=in_set | {"set": label_set["name"]})
    own = f"/api/v1/labelsets/{label_set['id']}"
    draft = {"explanation": hostile.text("draft"), "categories": guideline["categories"]}
    await send("PUT", f"{own}/features/2/draft", json=draft)
    decision = {"feature": 3, "explanation": hostile.text("decision"), "note": hostile.text("note of a decision")}
    await send("POST", f"{own}/decisions", json=decision | {"categories": guideline["categories"]})
    comment = f"{hostile.text('comment')} @{name}"
    await send("POST", f"/api/v1{feature}/comments", json={"text": comment})
    items = [{"sae": slug, "feature": 3, "note": hostile.text("note of a list")}]
    new_list = {"name": hostile.name("list"), "description": hostile.text("description"), "items": items}
    made = (await send("POST", "/api/v1/lists", json=new_list)).json()
    probe = {"title": hostile.name("saved probe"), "text": hostile.text("text of a saved probe")}
    saved = await send("POST", f"/saes/{slug}/probe/saved", data=probe)
    turns = [{"role": "user", "content": hostile.text("turn of a chat")}]
    strange = {name: hostile.name(f"{name} of a text") for name in ("label", "group", "pair")}
    texts = [
        {**strange, "chat": turns, hostile.name("field"): hostile.text("value of a field")},
        {**strange, "text": hostile.text("text of a set"), "label": "other"},
    ]
    about = {name: hostile.text(f"{name} of a text set") for name in ("description", "source", "licence")}
    url = f"https://example.org/?{hostile.name('address of a text set')}"
    await send("POST", "/api/v1/textsets", json={"name": "strange", "texts": texts, **about, "url": url})
    webhook = {"url": f"http://127.0.0.1:9/?{hostile.name('webhook')}", "sae": slug}
    await send("POST", "/api/v1/webhooks", json=webhook)
    told = {"url": f"http://127.0.0.1:9/?{hostile.name('webhook of a monitor')}", "monitor": "kings"}
    await send("POST", "/api/v1/webhooks", json=told)
    await send("POST", "/account/tokens", data={"name": hostile.name("token"), "scope": "read"})
    return {
        "sae": slug,
        "set": str(label_set["id"]),
        "list": made["id"],
        "probe": saved.headers["location"].rpartition("/")[2],
    }


async def columns_without(connection: AsyncConnection) -> set[str]:
    """Columns of text in which nothing hostile is."""
    without = set()
    for column in [column for table in Base.metadata.tables.values() for column in table.columns]:
        kind = column.type.item_type if isinstance(column.type, ARRAY) else column.type
        if isinstance(kind, String | JSONB) and not {column.table.name, str(column)} & NOT_WRITTEN_BY_PEOPLE:
            hostile = select(func.count()).select_from(column.table).where(cast(column, Text).contains("zq("))
            if not await connection.scalar(hostile):
                without.add(str(column))
    return without


QUERIES = {
    "/compare": "a={sae}&b={sae}",
    "/api/v1/compare": "a={sae}&b={sae}",
    "/labelsets/new": "sae={sae}",
    "/lists/{id}/remove": "sae={sae}&feature=3&version=1",
    "/saes/{sae}/features/{index}/drawn": "from=0&to=1",
}
"""Of routes that need some."""
OTHERWISE = (
    "/compare",
    "/corpora/",
    "/models/",
    "/invitations/",
    "/drawn",
    "/examples/",
    "/sign-in/provider",
    "/cancel",
)
"""Addresses that need more than this site has; how they refuse is read too."""


def addresses(places: dict[str, str]) -> list[str]:
    """The address of every page, download and answer, with names of things that are there."""
    found = []
    for route, names in ROUTES:
        if route == "/api/v1/edits/{name}/download":
            continue  # of the file that the inference process writes
        of = {"sae": places["sae"], "id": "1", "run_id": "1", "index": "3", "feature": "2", "sequence": "1"}
        of |= {"kind": "train", "secret": "none", "name:path": "tiny", "model:path": "tiny", "name": "edit"}
        if "/textsets/" in route:
            of["name"] = "texts"
        for part, name in (("/lists/", "list"), ("/labelsets/", "set"), ("/probe/saved/", "probe")):
            if part in route:
                of["id"] = places[name]
        path = "/".join(of[part[1:-1]] if part.startswith("{") else part for part in route.split("/"))
        query = QUERIES.get(route, "").format_map(places)
        queries = [f"format={format}" for format in ("csv", "jsonl")] if "format" in names else [query]
        found += [f"{path}?{query}" for query in queries]
    feature = f"/saes/{places['sae']}/features"
    more = ("/4", f"/{FEW_TOKENS}", "/3?embed=true", "?q=zq", "?category=%22zq")
    strange = "/textsets/strange"
    found += [strange, *(f"/api/v1{strange}{one}" for one in ("", "/texts", "/download?format=csv", "/download"))]
    found += ["/webhooks?monitor=kings", "/webhooks/2", "/monitors/kings", "/activity?monitor=kings"]
    return [*found, *(feature + one for one in more), f"/labelsets/{places['set']}/adjudicate/3"]


async def test_hostile_text_stays_text(engine: AsyncEngine, database_url: str, tmp_path: Path) -> None:
    hostile = Hostile()
    made = await make_sae(engine, **OPTIONS)
    person = await sign_in(engine, hostile.name("account"), Role.admin)
    async with transaction(create_sessionmaker(engine)) as session:
        await session.execute(text("UPDATE sign_in_session SET browser = :it"), {"it": hostile.name("browser")})
        await written_by_people(session, hostile, made)
    async with site(Settings(database_url=database_url, home=tmp_path, webhooks_to_private=True)) as client:
        client.cookies.update(person.cookies)
        places = await written_by_browsers(client, hostile, made.sae.slug, person.actor.name)
        async with engine.begin() as connection:
            await connection.execute(text(DELIVERY), {"error": hostile.name("error of a webhook")})
            assert await columns_without(connection) == set()
        shown = []
        for address in addresses(places):
            for headers in ({}, {"HX-Request": "true"}):
                response = await client.get(address, headers=headers)
                answered = response.status_code < 400 or response.status_code == 503
                assert answered or any(part in address for part in OTHERWISE), (address, response.text)
                if response.status_code not in (303, 307):
                    shown.append(check(response))
    everything = "\n".join(shown)
    assert {where for marker, where in hostile.written.items() if marker not in everything} == set()
