"""Forms of runs: made from declarations, filled in by addresses, checked before anything is queued."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.pipeline.train import TrainParams
from app.queries.runs import create_run, finish_run, get_run, list_runs, start_run
from app.runs.spec import specs
from app.settings import Settings
from app.web.components.run_form import address_of
from tests.factories import Synthetic, make_sae
from tests.web.html import Element, parse
from tests.web.site import site

HTMX = {"HX-Request": "true"}


def field(page: Element, name: str) -> Element:
    return next(element for element in page.all() if element.attributes.get("name") == name)


def error(page: Element, name: str) -> str:
    """The error beside a field, which names it."""
    found = field(page, name)
    assert found["aria-invalid"] == "true"
    assert f"param-{name}-error" in found["aria-describedby"].split()
    return page.one("p", id=f"param-{name}-error").text


async def runs(session: AsyncSession) -> list[Any]:
    return (await list_runs(session))[0]


async def test_every_kind_is_offered_in_a_sentence(client: httpx.AsyncClient) -> None:
    page = parse((await client.get("/runs/new")).text)
    assert {link["href"] for link in page.one("ul", cls="run-kinds").all("a")} == {
        f"/runs/new/{spec.kind}" for spec in specs()
    }
    assert "Compute the statistics of all features of an SAE over a corpus, and publish them." in page.text


@pytest.mark.parametrize("kind", [spec.kind for spec in specs()])
async def test_a_form_has_a_labelled_and_described_field_for_each_parameter(
    client: httpx.AsyncClient, kind: str
) -> None:
    page = parse((await client.get(f"/runs/new/{kind}")).text)
    labels = {label.attributes.get("for"): label.line for label in page.all("label")}
    for spec in specs():
        if spec.kind != kind:
            continue
        for name, declared in spec.params.model_fields.items():
            found = field(page, name)
            assert found.attributes.get("type") == "checkbox" or labels[found["id"]]
            if "hint" in (found.attributes.get("aria-describedby") or ""):
                assert page.one("p", id=f"param-{name}-hint").text == declared.description
    assert page.one("button", value="queue")
    assert (await client.get("/runs/new/knit")).status_code == 404


async def test_a_form_starts_with_sensible_values_and_folds_the_rest(client: httpx.AsyncClient) -> None:
    page = parse((await client.get("/runs/new/train")).text)
    values = {name: field(page, name)["value"] for name in ("model", "hook", "corpus", "width", "k", "architecture")}
    assert values == {
        "model": "smollm2-135m",
        "hook": "resid_post.9",
        "corpus": "wikipedia-summaries",
        "width": "4096",
        "k": "32",
        "architecture": "batchtopk",
    }
    more = page.one("details", cls="more-options")
    assert "open" not in more.attributes
    assert field(more, "seed")["value"] == "0"
    assert [option.text for option in field(more, "precision").all("option")] == ["float32", "tf32", "bf16"]


async def test_the_address_fills_the_form_in(client: httpx.AsyncClient, made: Synthetic) -> None:
    page = parse((await client.get(f"/runs/new/index?sae={made.sae.slug}&tokens=9&split=test")).text)
    assert field(page, "sae")["value"] == made.sae.slug
    assert field(page, "tokens")["value"] == "9"
    assert "open" in page.one("details", cls="more-options").attributes  # what it changes is not hidden
    one = parse((await client.get(f"/runs/new/evaluate?sae={made.sae.slug}")).text)
    assert field(one, "sae").one("option", selected=None).text == made.sae.slug
    unknown = parse((await client.get("/runs/new/evaluate?sae=nothing")).text)
    assert field(unknown, "sae").one("option", selected=None).text == "nothing"
    refused = await client.get("/runs/new/index?color=red")
    assert refused.status_code == 422
    assert "parameter “color”" in parse(refused.text).one("main").text


async def test_what_exists_is_suggested(client: httpx.AsyncClient, made: Synthetic, session: AsyncSession) -> None:
    params = {"model": "/models/mine.gguf", "hook": "resid_post.1", "corpus": "org/texts"}
    run = await create_run(session, kind="train", title="t", params=params, stages=(), created_by="ada")
    await start_run(session, run.id)
    await finish_run(session, run.id, {})
    await session.commit()
    page = parse((await client.get("/runs/new/train")).text)
    for name, values in (
        ("model", ["smollm2-135m", "/models/mine.gguf"]),
        ("corpus", ["wikipedia-summaries", "org/texts"]),
    ):
        datalist = page.one("datalist", id=field(page, name)["list"])
        assert [option["value"] for option in datalist.all("option")] == values
    compare = parse((await client.get("/runs/new/compare")).text)
    assert [option.text for option in field(compare, "a").all("option")] == ["Choose one", made.sae.slug]


async def test_errors_stand_beside_their_fields_and_what_was_typed_is_kept(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    typed = {
        "model": "m",
        "hook": "",
        "corpus": "c",
        "width": "1,many",
        "batch_size": "0",
        "lr": "fast",
        "name": "Not a slug",
        "precision": "float8",
        "skip": "1",
        "options": "l1_coefficient=2\nprefixes=a",
    }
    answer = await client.post("/runs/new/train", data=typed)
    assert answer.status_code == 422
    page = parse(answer.text)
    assert error(page, "hook") == "This is needed."
    assert error(page, "width").startswith("Give ")
    assert error(page, "batch_size") == "Give 1 or more."
    assert error(page, "lr") == "Give a number."
    assert error(page, "name").startswith("Use small letters from a to z, digits")
    assert error(page, "precision") == "Choose 'float32', 'tf32' or 'bf16'."
    assert "is not NAME=VALUE with a number" in error(page, "options")
    for name in ("model", "width", "batch_size", "lr", "name"):
        assert field(page, name)["value"] == typed[name]
    assert field(page, "options").text.lstrip("\n") == typed["options"]
    assert "checked" in field(page, "skip").attributes
    assert [element["name"] for element in page.all() if "autofocus" in element.attributes] == ["hook"]
    assert "open" in page.one("details", cls="more-options").attributes
    summary = page.one("div", id="check")
    assert "Hook point" in [link.text for link in summary.all("a")]
    assert await runs(session) == []


async def test_values_that_do_not_go_together_are_refused(client: httpx.AsyncClient) -> None:
    typed = {"model": "m", "hook": "resid_post.1", "corpus": "c", "width": "64,128", "name": "mine"}
    answer = await client.post("/runs/new/train", data=typed)
    assert answer.status_code == 422
    assert "A name is for one SAE" in parse(answer.text).one("div", id="check").text


async def test_a_run_is_queued_once_and_by_its_actor(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    typed = {"a": made.sae.slug, "b": "other", "step": "queue"}
    refused = await client.post("/runs/new/compare", data={"a": made.sae.slug, "b": "", "step": "queue"})
    assert refused.status_code == 422
    typed = {"sae": made.sae.slug, "corpus": "org/texts", "tokens": "", "step": "queue"}
    answers = [await client.post("/runs/new/evaluate", data=typed) for _ in range(2)]
    (run,) = await runs(session)
    assert [(answer.status_code, answer.headers["location"]) for answer in answers] == [(303, f"/runs/{run.id}")] * 2
    assert (run.state, run.kind, run.created_by, run.queue_position) == ("queued", "evaluate", "ada", 1)
    assert (run.params["sae"], run.params["tokens"], run.params["split"]) == (made.sae.slug, None, "train")


async def test_a_check_says_what_is_wrong_or_what_it_costs_and_queues_nothing(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, tmp_path: Any
) -> None:
    typed = {"sae": "none", "destination": str(tmp_path / "new"), "format": "saelens", "step": "check"}
    for headers in ({}, HTMX):
        answer = await client.post("/runs/new/export", data=typed, headers=headers)
        assert answer.status_code == (200 if headers else 422)
        page = parse(answer.text)
        assert "There is no SAE “none”" in page.one("div", cls="error").text
        assert bool(page.all("form")) is not bool(headers)
        ready = await client.post("/runs/new/export", data={**typed, "sae": made.sae.slug}, headers=headers)
        assert ready.status_code == 200
        words = " ".join(parse(ready.text).one("div", cls="good").text.split())
        assert words.startswith("Ready to queue on disk up to 0.00")
        wanting = await client.post("/runs/new/export", data={"step": "check"}, headers=headers)
        assert wanting.status_code == (200 if headers else 422)
        assert "Folder: This is needed." in parse(wanting.text).text.replace("\n", " ")
    prefilled = await client.get("/runs/new/export", params={**typed, "sae": made.sae.slug} | {"step": ""})
    assert prefilled.status_code == 422  # `step` is no parameter
    del typed["step"]
    assert "Ready to queue" in (await client.get("/runs/new/export", params={**typed, "sae": made.sae.slug})).text
    assert await runs(session) == []


async def test_what_the_database_cannot_hold_is_an_error_and_no_fault(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    answer = await client.post("/runs/new/evaluate", data={"sae": made.sae.slug, "corpus": "a\0b"})
    assert answer.status_code in (303, 422)
    huge = await client.post("/runs/new/evaluate", data={"sae": made.sae.slug, "tokens": "9" * 30})
    assert huge.status_code == 422
    assert error(parse(huge.text), "tokens") == "This number is too large."
    assert (await client.post("/runs/new/evaluate", json={"sae": "x"})).status_code == 422


def test_the_address_of_a_run_gives_its_parameters_again() -> None:
    params = TrainParams(
        model="m", hook="resid_post.1", corpus="c", width=(64, 128), options={"prefixes": (0.1, 1.0)}, skip=True
    )
    address = address_of("train", params.model_dump(mode="json"))
    assert address is not None
    assert dict(parse_qsl(urlsplit(address).query)) == {
        "model": "m",
        "hook": "resid_post.1",
        "corpus": "c",
        "width": "64,128",
        "options": "prefixes=0.1,1.0",
        "skip": "1",
    }
    assert address_of("retired", {}) is None


async def test_a_shared_address_queues_the_same_run(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    typed = {"sae": made.sae.slug, "corpus": "org/texts", "tokens": "5000"}
    first = await client.post("/runs/new/evaluate", data=typed)
    run = await get_run(session, int(first.headers["location"].rpartition("/")[2]))
    assert run is not None
    address = address_of(run.kind, run.params)
    assert address is not None
    page = parse((await client.get(address)).text)
    form = page.one("form", cls="run-form")
    sent = {
        element["name"]: element.attributes.get("value") or ""
        for element in form.all("input")
        if element.attributes.get("type") != "checkbox"
    }
    sent |= {element["name"]: element.one("option", selected=None).text for element in form.all("select")}
    again = await client.post(f"/runs/new/{run.kind}", data=sent)
    assert again.headers["location"] == first.headers["location"]


async def test_an_sae_without_an_index_can_be_indexed_from_its_pages(engine: AsyncEngine, settings: Settings) -> None:
    await make_sae(engine, slug="bare", publish=False)
    pages = ("/", "/saes/bare", "/saes/bare/features", "/saes/bare/map")
    for allowed in (True, False):
        async with site(settings.model_copy(update={"submit_runs": allowed})) as client:
            for path in pages:
                main = parse((await client.get(path)).text).one("main")
                assert bool(main.all("a", href="/runs/new/index?sae=bare")) is allowed, path
                assert path == "/" or "seesae index bare" in main.text
            if allowed:
                form = parse((await client.get("/runs/new/index?sae=bare")).text)
                assert field(form, "sae")["value"] == "bare"
