import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.comparisons import get_comparison, get_counterparts, get_parts
from app.queries.models import ModelRow, register_model
from app.queries.runs import RunView, Stage, cancel_run, create_run
from app.queries.saes import SaeDetail, SaeRow, register_sae
from app.settings import Settings
from tests.comparing import NARROW, WIDE, compare, make_pair
from tests.conftest import only_reads
from tests.factories import Synthetic, add_label, make_sae
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX
from tests.web.site import site

pytestmark = pytest.mark.read_only

Pair = tuple[Synthetic, Synthetic]
BOTH = {"a": NARROW, "b": WIDE}


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Pair:
    """Two compared SAEs."""
    return request.getfixturevalue("module_pair" if only_reads(request) else "own_pair")


@pytest.fixture(scope="module")
async def module_pair(module_engine: AsyncEngine) -> Pair:
    return await make_pair(module_engine)


@pytest.fixture
async def own_pair(engine: AsyncEngine) -> Pair:
    return await make_pair(engine)


async def get(client: httpx.AsyncClient, status: int = 200, **query: object) -> Element:
    answer = await client.get("/compare", params={key: str(value) for key, value in query.items()})
    assert answer.status_code == status, answer.text
    return parse(answer.text)


def said(page: Element) -> str:
    return " ".join(page.one("main").text.split())


def chosen(page: Element, name: str) -> str:
    return next((each["value"] for each in page.one("select", id=name).all("option", selected=None)), "")


@pytest.mark.own_database
async def test_with_too_few_saes_the_page_says_what_to_do(client: httpx.AsyncClient) -> None:
    page = await get(client)
    assert "seesae demo" in page.one("code", cls="command").text


async def test_without_a_choice_compared_pairs_are_offered(client: httpx.AsyncClient, pair: Pair) -> None:
    page = await get(client)
    (link,) = page.one("ul", cls="compare-known").all("a")
    assert link["href"] == f"/compare?a={NARROW}&b={WIDE}"
    page = await get(client, a=WIDE)
    assert chosen(page, "a") == WIDE
    (link,) = page.one("ul", cls="compare-known").all("a")
    assert link["href"] == f"/compare?a={WIDE}&b={NARROW}"


@pytest.mark.own_database
async def test_an_sae_that_was_compared_with_none_says_how(client: httpx.AsyncClient, made: Synthetic) -> None:
    page = await get(client, a=made.sae.slug)
    assert "seesae demo" in said(page)  # it is the only one


async def test_two_saes_side_by_side(client: httpx.AsyncClient, pair: Pair, session: AsyncSession) -> None:
    view = await get_comparison(session, pair[0].sae, pair[1].sae)
    assert view is not None
    page = await get(client, **BOTH)
    text = said(page)
    assert f"{view.this['matched_by_activity']} of the 24 features of" in text
    assert f"splits {view.this['split']} features of" in text
    heads = [each.text for each in page.all("h2")]
    assert heads[0] == "Split by …60"  # of the two, the direction in which there is more
    assert {"In both", "Only in …60", "Side by side"} <= {*heads}
    first, second = (
        [[cell.text for cell in row.all("td")] for row in chart.one("table").one("tbody").all("tr")]
        for chart in page.all("figure", cls="chart")
    )
    assert sum(int(matched) for _, _, matched, _ in first) == view.this["matched_by_direction"]
    assert sum(int(matched) + int(other) for _, _, matched, other in first) == 24
    assert sum(int(matched) for _, _, matched, _ in second) == view.this["matched_by_activity"]
    assert sum(int(matched) + int(other) for _, _, matched, other in second) == 24 - view.this["uncorrelated"]
    table = page.one("section", aria_labelledby="measures").all("table")[0]
    rows = {row.one("th").children[0]: [cell.text for cell in row.all("td")] for row in table.one("tbody").all("tr")}
    assert rows["Features"] == ["24", "60"]
    assert rows["Explained variance"] == ["0.812", "0.812"]


async def test_swapped_the_wider_comes_first(client: httpx.AsyncClient, pair: Pair) -> None:
    page = await get(client, a=WIDE, b=NARROW)
    assert page.all("h2")[0].text == "Split by …60"
    rows = page.all("a", cls="pair-split")
    assert rows[0]["href"].startswith(f"/compare?a={NARROW}&b={WIDE}&feature=")


@pytest.mark.own_database
async def test_a_feature_shows_its_parts(client: httpx.AsyncClient, pair: Pair, session: AsyncSession) -> None:
    narrow, wide = pair
    await add_label(session, wide.sae, 12, "a part <b>")
    await session.commit()
    view = await get_comparison(session, narrow.sae, wide.sae)
    assert view is not None
    parts = await get_parts(session, view, 12)
    own = (await get_counterparts(session, view, [12]))[12]
    assert own.best is not None
    assert len(parts) > 1
    page = await get(client, **BOTH, feature=12)
    assert f"splits it into {len(parts)} parts" in said(page)
    left, right = page.one("div", cls="beside").all("section")
    assert left["aria-label"] == f"Feature 12 of {NARROW}"
    assert right["aria-label"] == f"Feature {own.best.index} of {WIDE}"
    assert len(left.all("li", cls="example")) == 10
    assert len(right.all("li", cls="example")) == 10
    rows = [row for row in page.all("a", cls="relative") if f"a={WIDE}" in row["href"]]
    numbers = [int(row.one("span", cls="pair-number").text) for row in rows]
    assert numbers[: len(parts)] == [part.feature for part in parts]
    assert "a part <b>" in said(page)

    child = parts[0].feature
    page = await get(client, a=WIDE, b=NARROW, feature=child)
    assert "a part of feature 12" in " ".join(said(page).split())
    parent = page.all("a", cls="relative")[-1]
    assert parent["href"] == f"/compare?a={NARROW}&b={WIDE}&feature=12"


async def test_a_dead_feature_has_a_page_too(client: httpx.AsyncClient, pair: Pair) -> None:
    page = await get(client, **BOTH, feature=23)
    assert page.one("h1").text == "Feature 23 and its counterpart"
    page = await get(client, a=WIDE, b=NARROW, feature=59)
    assert not page.all("a", rel="next")


@pytest.mark.parametrize("show", ["matched", "only-a", "only-b", "split-a", "split-b"])
async def test_lists_are_read_to_their_end(client: httpx.AsyncClient, pair: Pair, show: str) -> None:
    page = await get(client, **BOTH, show=show)
    links = [row["href"] for row in page.all("a", cls="pair")]
    total = int(said(page).split(" feature")[0].split()[-1])
    assert len(set(links)) == len(links) == min(total, 50)


async def test_more_of_a_list_comes_as_rows(
    client: httpx.AsyncClient, engine: AsyncEngine, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.pages.compare._PAGE", 10)
    page = await get(client, **BOTH, show="only-b")
    address = page.one("a", data_more=None)["href"]
    links = [row["href"] for row in page.all("a", cls="pair")]
    while address:
        fragment = parse((await client.get(address, headers=HTMX)).text)
        assert not fragment.all("main")
        links += [row["href"] for row in fragment.all("a", cls="pair")]
        more = fragment.all("a", data_more=None)
        address = more[0]["href"] if more else ""
    assert len(links) == len(set(links)) == 35


@pytest.mark.own_database
async def test_a_comparison_of_directions_alone_says_so(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_pair(engine, activity=False)
    page = await get(client, **BOTH)
    assert "Only directions were compared" in said(page)
    assert f"seesae compare {NARROW} {WIDE}" in said(page)  # both are indexed on the same text
    assert len(page.all("figure", cls="chart")) == 1
    assert "correlation" not in page.one("p", cls="lead").text
    page = await get(client, **BOTH, feature=3)
    assert "in direction" in said(page)
    assert not page.all("section", aria_labelledby="parts")
    for show in ("split-a", "only-b", "matched"):
        await get(client, **BOTH, show=show)


@pytest.mark.own_database
async def test_an_index_on_other_text_makes_it_stale(
    client: httpx.AsyncClient, pair: Pair, session: AsyncSession
) -> None:
    assert not (await get(client, **BOTH)).all("p", cls="notice")
    await session.execute(text("UPDATE comparison SET sequence_set_id = NULL"))
    await session.commit()
    page = await get(client, **BOTH)
    notice = page.one("div", cls="notice")
    assert f"seesae compare {NARROW} {WIDE}" in notice.text
    assert notice.one("button").text == "Compare these two"


@pytest.mark.own_database
async def test_a_button_queues_the_comparison_and_the_page_follows_it(
    client: httpx.AsyncClient, settings: Settings, engine: AsyncEngine
) -> None:
    for slug, features in ((NARROW, 24), (WIDE, 60)):
        await make_sae(engine, slug=slug, features=features)
    form = (await get(client, 404, **BOTH)).one("form", cls="compare-start")
    sent = {field["name"]: field["value"] for field in (*form.all("input"), form.one("button"))}
    assert BOTH.items() <= sent.items()
    answer = await client.post(form["action"], data=sent)
    assert answer.status_code == 303, answer.text
    page = await get(client, **BOTH)
    assert page.one("a", cls="run-card-link")["href"] == answer.headers["location"]
    assert "next in the queue" in page.one("section", cls="run-live").text
    assert not page.all("form", cls="compare-start")
    await get(client, 404, **BOTH, show="matched")


@pytest.mark.own_database
async def test_visitors_who_may_not_submit_are_shown_the_command_alone(settings: Settings, engine: AsyncEngine) -> None:
    for slug, features in ((NARROW, 24), (WIDE, 60)):
        await make_sae(engine, slug=slug, features=features)
    async with site(settings.model_copy(update={"submit_runs": False})) as closed:
        page = await get(closed, 404, **BOTH)
    assert f"seesae compare {NARROW} {WIDE}" in said(page)
    assert not page.all("form", cls="compare-start")


@pytest.mark.own_database
async def test_not_compared_shows_the_measures_and_says_how(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug=NARROW, features=24)
    await make_sae(engine, slug=WIDE, features=60)
    await make_sae(engine, slug="bare", features=30, publish=False)
    page = await get(client, 404, **BOTH)
    assert f"seesae compare {NARROW} {WIDE}" in page.one("div", cls="compare-notice").text
    assert page.all("table", cls="compare-measures")
    assert (chosen(page, "a"), chosen(page, "b")) == (NARROW, WIDE)
    page = await get(client, 404, a=NARROW, b="bare")
    assert "seesae index bare" in page.one("div", cls="compare-notice").text
    assert page.one("div", cls="compare-notice").one("a")["href"] == "/runs/new/index?sae=bare"
    await get(client, 404, a=NARROW, b="bare", feature=3)
    await get(client, 404, a="bare", b=NARROW, show="matched")


@pytest.mark.own_database
@pytest.mark.parametrize(
    ("query", "status", "said_of_it"),
    [
        ({"a": "nobody"}, 404, "There is no SAE “nobody”"),
        ({"a": NARROW, "b": "no\0body"}, 404, "There is no SAE"),
        ({"a": NARROW, "b": NARROW}, 422, "compared with itself"),
        ({**BOTH, "feature": "24"}, 404, "numbered 0 to 23"),
        ({**BOTH, "feature": "-1"}, 404, "numbered 0 to 23"),
        ({**BOTH, "feature": "٣"}, 404, "numbered 0 to 23"),
        ({**BOTH, "feature": "9" * 500}, 404, "numbered 0 to 23"),
        ({**BOTH, "show": "everything"}, 422, "use one of split-a"),
        ({**BOTH, "show": "matched", "cursor": "x"}, 422, "start again without it"),
        ({"a": NARROW, "b": "elsewhere"}, 422, "only SAEs of one model"),
    ],
)
async def test_bad_addresses_are_explained_below_the_choice(
    client: httpx.AsyncClient, pair: Pair, session: AsyncSession, query: dict[str, str], status: int, said_of_it: str
) -> None:
    await elsewhere(session)
    answer = await client.get("/compare", params=query)
    assert answer.status_code == status
    page = parse(answer.text)
    assert said_of_it in page.one("div", cls="compare-notice").text
    assert page.one("form", cls="compare-choice")
    assert (await client.get("/compare", params=query, headers=HTMX)).status_code == status


async def elsewhere(session: AsyncSession) -> None:
    """An SAE of another model."""
    model = await register_model(
        session,
        ModelRow(
            name="other",
            source="x",
            n_layers=1,
            d_model=16,
            vocab_size=1,
            weights_sha256="2" * 64,
            tokenizer_sha256="3" * 64,
            bos_token_id=None,
        ),
        token_bytes=[b"a"],
        special_token_ids=set(),
    )
    await register_sae(
        session,
        SaeRow(
            slug="elsewhere",
            model_id=model.id,
            hook="resid_post.0",
            architecture="topk",
            d_in=16,
            d_sae=4,
            k=1,
            artifact="none",
            weights_sha256="4" * 64,
            config={},
            metrics={},
            created_by="ada",
        ),
    )
    await session.commit()


# --- on the feature's own page


@pytest.mark.own_database
async def test_a_feature_page_shows_its_counterparts(
    client: httpx.AsyncClient, engine: AsyncEngine, pair: Pair, session: AsyncSession
) -> None:
    narrow, wide = pair
    address = f"/saes/{NARROW}/features/12"
    first = await client.get(address)
    section = parse(first.text).one("section", aria_labelledby="in-others")
    link = section.all("a")[0]
    assert link["href"] == f"/compare?a={NARROW}&b={WIDE}&feature=12"
    assert WIDE in link.text
    assert "split into" in link.text
    etag = first.headers["ETag"]
    assert (await client.get(address, headers={"If-None-Match": etag})).status_code == 304

    view = await get_comparison(session, narrow.sae, wide.sae)
    assert view is not None
    best = (await get_counterparts(session, view, [12]))[12].best
    assert best is not None
    await add_label(session, wide.sae, best.index, "named & known")
    await session.commit()
    again = await client.get(address, headers={"If-None-Match": etag})
    assert again.status_code == 200
    assert "named & known" in parse(again.text).one("section", aria_labelledby="in-others").text

    third = await make_sae(engine, slug="third", features=40, sequences=80)
    await compare(engine, narrow, third)
    page = parse((await client.get(address)).text)
    names = page.one("section", aria_labelledby="in-others").all("span", cls="counterpart-sae")
    assert [name.text for name in names] == ["third", WIDE]


@pytest.mark.own_database
async def test_a_feature_of_an_sae_that_was_not_compared_has_no_such_section(
    client: httpx.AsyncClient, made: Synthetic
) -> None:
    page = parse((await client.get(f"/saes/{made.sae.slug}/features/3")).text)
    assert not page.all("section", aria_labelledby="in-others")
    assert page.one("nav", aria_label="This SAE").all("a", href=f"/compare?a={made.sae.slug}")


@pytest.mark.own_database
async def test_a_run_that_compares_the_two_is_shown_instead_of_its_command(
    client: httpx.AsyncClient, engine: AsyncEngine, session: AsyncSession
) -> None:
    a, b, other = [(await make_sae(engine, slug=slug)).sae for slug in ("a", "b", "other")]

    async def add(kind: str, params: dict[str, str], sae: SaeDetail | None = None, done: bool = False) -> RunView:
        stages = [Stage("compare", "Compare the features of both", "done" if done else "waiting")]
        run = await create_run(
            session, kind=kind, title=kind, params=params, stages=stages, created_by="ada", sae_id=sae and sae.id
        )
        await session.commit()
        return run

    both = {"a": "a", "b": "b"}
    await add("compare", {"a": "a", "b": "other"})
    await add("index", {}, other)
    await add("index", {}, a, done=True)
    assert "seesae compare a b" in said(await get(client, 404, **both))
    assert len((await get(client)).all("section", cls="run-live")) == 2

    indexing = await add("index", {}, b)
    comparing = await add("compare", {"a": "b", "b": "a"})
    page = await get(client, **both)
    assert [link["href"] for link in page.all("a", cls="run-card-link")] == [
        f"/runs/{run.id}" for run in (comparing, indexing)
    ]
    assert "seesae compare" not in said(page)
    assert "None have been compared" not in said(await get(client))
    for run in (indexing, comparing):
        await cancel_run(session, run.id)
    await session.commit()
    assert "seesae compare a b" in said(await get(client, 404, **both))


async def test_the_page_says_how_many_features_come_back_beside_chance(
    client: httpx.AsyncClient, pair: Pair, session: AsyncSession
) -> None:
    narrow, wide = pair
    comparison = await get_comparison(session, narrow.sae, wide.sae)
    assert comparison is not None
    table = (await get(client, **BOTH)).one("section", aria_labelledby="partners")
    rows = {row.one("th", scope="row").text: row.all("td") for row in table.one("tbody").all("tr")}
    direction, activity, chance = rows.values()
    for cells, key in ((direction, "direction"), (activity, "activity")):
        for cell, side in zip(cells, (comparison.this, comparison.other), strict=True):
            share = side["partners"][key]
            assert f"{share['found']} of {share['features']}" in cell.text
            assert " – " in cell.text
    assert "0 of 20" in chance[0].text
    assert "0.40 on average" in list(rows)[2]


@pytest.mark.own_database
async def test_a_comparison_older_than_the_measure_says_to_compare_again(
    client: httpx.AsyncClient, pair: Pair, session: AsyncSession
) -> None:
    await session.execute(text("UPDATE comparison SET summary = summary #- '{a,partners}' #- '{b,partners}'"))
    await session.commit()
    section = (await get(client, **BOTH)).one("section", aria_labelledby="partners")
    assert "compare the two again" in " ".join(section.text.split())


async def test_a_feature_says_whether_it_has_a_partner(
    client: httpx.AsyncClient, pair: Pair, session: AsyncSession
) -> None:
    narrow, wide = pair
    comparison = await get_comparison(session, narrow.sae, wide.sae)
    assert comparison is not None
    found = await get_counterparts(session, comparison, range(24))
    both = [each for each in found.values() if each.near and each.coactive]
    having = next(each for each in both if each.near.cosine >= 0.7)
    without = next(each for each in both if each.near.cosine < 0.7)
    for each in (having, without):
        page = parse((await client.get(f"/saes/{NARROW}/features/{each.feature}")).text)
        direction, activity = page.all("p", cls="counterpart-partner")
        words = "Has a partner by direction" if each is having else "No partner by direction"
        assert " ".join(direction.text.split()).startswith(f"{words} (cosine of 0.7 or more)")
        assert direction.one("a")["href"] == f"/saes/{WIDE}/features/{each.near.index}"
        words = "Has a partner" if each.coactive.correlation >= 0.7 else "No partner"
        assert " ".join(activity.text.split()).startswith(f"{words} by activity (correlation of 0.7 or more)")
        assert activity.one("a")["href"] == f"/saes/{WIDE}/features/{each.coactive.index}"
        beside = said(await get(client, **BOTH, feature=each.feature))
        assert ("it has a partner" in beside) == (each is having)
        assert f"feature {each.near.index}, at cosine" in beside
