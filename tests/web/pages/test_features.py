from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import create_sessionmaker
from app.queries.examples import get_examples
from app.web.components import glossary
from sae_core.statistics.spec import BANDS, HEALTH_FLAGS
from tests.factories import Synthetic, add_label, make_sae
from tests.people import sign_in
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX

pytestmark = pytest.mark.read_only


def numbers(page: Element) -> list[int]:
    return [int(row.one("span", cls="feature-number").text) for row in page.all("a", cls="feature-row")]


# --- the list


@pytest.mark.parametrize(
    ("sort", "key", "reverse"),
    [
        ("", lambda row: (-row.density, row.number), False),
        ("density-asc", lambda row: (row.density, row.number), False),
        ("max", lambda row: (-row.max, row.number), False),
        ("index", lambda row: row.number, False),
        ("index-desc", lambda row: -row.number, False),
    ],
)
async def test_list_is_sorted(
    client: httpx.AsyncClient, made: Synthetic, base: str, sort: str, key, reverse: bool
) -> None:
    page = parse((await client.get(f"{base}/features", params={"sort": sort})).text)
    expected = sorted(made.features.rows(), key=key, reverse=reverse)
    got = numbers(page)
    if sort in ("", "density-asc", "max"):  # ties may stand in any order
        value = {row.number: (row.max if sort == "max" else row.density) for row in expected}
        assert [value[number] for number in got] == [value[row.number] for row in expected]
    else:
        assert got == [row.number for row in expected]


@pytest.mark.own_database
async def test_rows_show_a_line_a_sparkline_and_a_name(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    await add_label(session, made.sae, 1, 'cells, "tissue" <b>')
    await session.commit()
    page = parse((await client.get(f"{base}/features")).text)
    rows = {int(row.one("span", cls="feature-number").text): row for row in page.all("a", cls="feature-row")}
    assert rows[1].one("span", cls="feature-label").text == 'cells, "tissue" <b>'
    for row in (rows[1], rows[2]):  # a label does not hide the top tokens
        assert len(row.one("span", cls="feature-name").all("bdi", cls="token")) > 1
    assert rows[1].one("svg", cls="spark").one("path")["d"].startswith("M0 20")
    assert rows[1].one("span", cls="feature-density").text.endswith("%")


@pytest.mark.own_database
async def test_filters(client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession) -> None:
    await add_label(session, made.sae, 4, "games and matches")
    await session.commit()
    rows = made.features.rows()

    async def listed(**query: object) -> set[int]:
        return set(numbers(parse((await client.get(f"{base}/features?{urlencode(query)}")).text)))

    assert await listed(q="matches") == {4}
    assert await listed(label="labelled") == {4}
    assert await listed(label="unlabelled") == {row.number for row in rows} - {4}
    assert await listed(min_density=0.05) == {row.number for row in rows if row.density >= 0.05}
    assert await listed(max_density=0.05, min_density="", q="") == {row.number for row in rows if row.density <= 0.05}
    assert await listed(health="dead") == {row.number for row in rows if "dead" in row.health}
    topic = made.features.topic_names[0]
    assert await listed(topic=topic) == {row.number for row in rows if 0 in row.topics}
    rhythm = made.corpus.vocabulary.index(b" rhythm")
    assert await listed(token="rhythm") == {row.number for row in rows if rhythm in row.top_token_ids}
    strong = sorted(row.max for row in rows)[-5]
    assert await listed(min_max=float(strong)) == {row.number for row in rows if row.max >= strong}


async def test_filters_that_are_set_can_be_taken_off_one_by_one(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features?token=%20rhythm&min_density=0.001&sort=max")).text)
    assert page.one("details", cls="more-filters", open=None)
    (density, token) = page.one("ul", cls="set-filters").all("a")
    assert "0.1" in density.text
    assert "‘ rhythm’" in token.text
    assert token["href"] == f"{base}/features?sort=max&min_density=0.001"
    assert density["href"] == f"{base}/features?sort=max&token=+rhythm"


async def test_filters_that_contradict_each_other_can_be_corrected_in_place(
    client: httpx.AsyncClient, base: str
) -> None:
    response = await client.get(f"{base}/features?min_density=0.1&max_density=0.01&sort=max")
    page = parse(response.text)
    assert response.status_code == 422
    assert "swap the two" in page.one("div", cls="error", role="alert").text
    assert page.one("select", id="max_density").one("option", selected=None)["value"] == "0.01"
    fragment = await client.get(f"{base}/features?min_density=0.1&max_density=0.01", headers=HTMX)
    assert fragment.status_code == 422
    assert "swap the two" in fragment.text


async def test_a_list_can_be_downloaded_as_it_is_filtered(
    client: httpx.AsyncClient, made: Synthetic, base: str
) -> None:
    page = parse((await client.get(f"{base}/features?health=dead&sort=max-asc")).text)
    links = {link.text: link["href"] for link in page.one("span", cls="downloads").all("a")}
    assert list(links) == ["CSV", "JSON", "JSONL", "labels"]
    assert (await client.get(links["labels"])).headers["content-type"].startswith("text/csv")
    got = (await client.get(links["JSON"])).json()
    expected = sorted((row.max, row.number) for row in made.features.rows() if "dead" in row.health)
    assert [feature["index"] for feature in got] == [number for _, number in expected]


async def test_an_empty_result_says_what_to_change(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features?q=zzzzzz&label=labelled&min_density=0.5")).text)
    text = page.one("div", cls="empty").text
    assert "“zzzzzz”" in text
    assert "Widen the density range" in text
    assert "Show labelled and unlabelled" in text
    assert page.one("input", id="q")["value"] == "zzzzzz"


async def test_a_number_leads_to_its_feature(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features?q=7")).text)
    assert page.one("p", cls="corrected").one("a")["href"] == f"{base}/features/7"
    for other in ("24", "999999999999", "seven", "7x", "²"):
        assert not parse((await client.get(f"{base}/features", params={"q": other})).text).all("p", cls="corrected")


@pytest.mark.parametrize(
    "query",
    [
        "sort=colour",
        "min_density=much",
        "max_density=7",
        "label=maybe",
        "cursor=%00",
        "q=%00",
        "health=ill",
        "topic=Astrology",
        "min_density=0.2&max_density=0.1",
        "min_max=nan",
        "min_max=-1",
        "label=unlabelled&author=ada",
        "token=" + "x" * 201,
    ],
)
async def test_a_wrong_filter_is_explained(client: httpx.AsyncClient, base: str, query: str) -> None:
    response = await client.get(f"{base}/features?{query}")
    assert response.status_code in (200, 422) if query.startswith("q=") else response.status_code == 422
    assert parse(response.text).one("h1")


@pytest.mark.own_database
async def test_more_continues_where_the_page_ended(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug="wide", features=70)
    page = parse((await client.get("/saes/wide/features?sort=index")).text)
    assert numbers(page) == list(range(50))
    more = page.one("a", data_more=None)
    assert more["href"] == more["hx-get"]
    rows = parse((await client.get(more["href"], headers=HTMX)).text)
    assert numbers(rows) == list(range(50, 70))
    assert not rows.all("a", data_more=None)
    assert rows.children[0] != "<!doctype html>"
    assert numbers(parse((await client.get(more["href"])).text)) == list(range(50, 70))


async def test_htmx_gets_results_and_the_shortest_address(client: httpx.AsyncClient, base: str) -> None:
    response = await client.get(f"{base}/features?q=river&sort=&min_density=&max_density=0.1&label=", headers=HTMX)
    assert "<form" not in response.text
    assert response.headers["HX-Push-Url"] == f"{base}/features?q=river&max_density=0.1"


@pytest.mark.own_database
async def test_list_without_an_index(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug="bare", publish=False)
    page = parse((await client.get("/saes/bare/features")).text)
    assert "No index yet" in page.text
    assert (await client.get("/saes/bare/features/0")).status_code == 404


# --- one feature


async def test_feature_page_says_where_its_numbers_come_from(
    client: httpx.AsyncClient, made: Synthetic, base: str
) -> None:
    row = made.features.rows()[1]
    response = await client.get(f"{base}/features/1")
    assert response.status_code == 200
    assert len(response.content) < 150_000
    text = " ".join(parse(response.text).one("main").text.split()).replace("\u202f", " ")
    assert f"of {made.features.tokens:,} tokens of Made-up sentences" in text
    assert f"active on{row.count:,} tokens" in text
    assert "A direct effect only" in text
    assert "(quantiles)" in text
    assert "Not counted: padding and the token that begins a sequence." in text


async def test_examples_are_centred_on_their_token(
    client: httpx.AsyncClient, made: Synthetic, base: str, engine: AsyncEngine
) -> None:
    async with create_sessionmaker(engine)() as session:
        views = await get_examples(session, made.sae, 1)
    page = parse((await client.get(f"{base}/features/1")).text)
    lines = page.all("a", cls="example-line")
    assert len(lines) == len(views)
    best = lines[0].one("span", cls="line-after").all("span", cls="t")[0]
    token = views[0].tokens[views[0].position - views[0].start]
    assert best.text == token.bytes.decode()
    assert {"a6", "top"} <= best.classes
    assert f"token {token.id} · position {views[0].position}" in best["title"]
    titles = [heading.text.split("  ")[0] for heading in page.all("h3", cls="band-title")]
    assert titles[0].startswith("strongest fifth")
    assert titles[-1].startswith("weakest fifth")


async def test_an_example_opens_as_a_fragment_and_as_a_page(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features/1")).text)
    for line in (page.all("a", cls="example-line")[0], page.all("a", cls="example-line")[-1]):
        assert line["href"] == line["hx-get"]
        whole = parse((await client.get(line["href"])).text)
        fragment = parse((await client.get(line["href"], headers=HTMX)).text)
        assert whole.one("h1").text
        assert not fragment.all("h1")
        strips = [tree.one("p", cls="strip").text for tree in (whole, fragment)]
        assert strips[0] == strips[1]
        assert "sequence" in fragment.one("p", cls="sequence-foot").text


async def test_neighbours_are_linked(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features/1")).text)
    assert page.one("a", rel="prev")["href"] == f"{base}/features/0"
    assert page.one("a", rel="next")["href"] == f"{base}/features/2"
    first = parse((await client.get(f"{base}/features/0")).text)
    last = parse((await client.get(f"{base}/features/23")).text)
    assert not first.all("a", rel="prev")
    assert not last.all("a", rel="next")
    near = page.one("section", aria_labelledby="near").all("a")
    assert len(near) == 10
    for link in near[:2]:
        assert (await client.get(link["href"])).status_code == 200


@pytest.mark.own_database
async def test_a_draft_does_not_name_the_feature(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    await add_label(session, made.sae, 1, "not yet sure", status="draft")
    await session.commit()
    page = parse((await client.get(f"{base}/features/1")).text)
    assert "not yet sure" not in page.one("h1").text + page.one("title").text
    assert "Nobody has labelled it yet" in page.text
    assert page.one("p", cls="label-text").text == "not yet sure"


@pytest.mark.own_database
async def test_only_its_author_sees_a_draft(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession, engine: AsyncEngine
) -> None:
    await add_label(session, made.sae, 1, "not yet sure", status="draft")
    await session.commit()
    pages = (f"{base}/features/1", f"{base}/features?q=sure", f"{base}/features/1?embed=1", base, "/")
    own = [page for page in pages if "not yet sure" in (await client.get(page)).text]
    assert own == [f"{base}/features/1"]
    grace = await sign_in(engine, "grace")
    assert not [page for page in pages if "not yet sure" in (await client.get(page, headers=grace.headers)).text]


async def test_a_dead_feature_says_so(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    dead = next(row.number for row in made.features.rows() if row.count == 0)
    page = parse((await client.get(f"{base}/features/{dead}")).text)
    assert "This feature is dead" in page.text
    assert not page.all("figure")


@pytest.mark.parametrize("path", ["24", "-1", "999999999999999999999", "1/examples/999999", "1/examples/0?band=9"])
async def test_missing_features_are_a_404_or_422(client: httpx.AsyncClient, base: str, path: str) -> None:
    response = await client.get(f"{base}/features/{path}")
    assert response.status_code in (404, 422)
    assert parse(response.text).one("h1")


async def test_random_goes_to_a_feature(client: httpx.AsyncClient, base: str) -> None:
    response = await client.get(f"{base}/features/random")
    assert response.status_code == 303
    assert response.headers["cache-control"] == "no-store"
    assert int(response.headers["location"].removeprefix(f"{base}/features/")) in range(24)


def test_every_flag_that_is_explained_can_be_filtered_by() -> None:
    assert set(HEALTH_FLAGS) == set(glossary.HEALTH)
    assert set(glossary.BANDS) == set(range(1, BANDS + 1))
