"""The list of features: its views, its errors, and agreement with a filter in memory."""

import json
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.feature_list import FeatureFilter, FeaturePage, list_features
from app.queries.publish import FeatureStatisticsRow
from app.queries.saes import SaeDetail
from app.queries.search import words
from app.web.components.formatting import percent
from app.web.pages import feature_list
from app.web.pages.feature_list import SORTS
from tests.app.queries.test_feature_list import LABELS, passes
from tests.factories import Synthetic, add_label, make_sae
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX

pytestmark = pytest.mark.read_only


def numbers(page: Element) -> list[int]:
    rows = page.all("a", data_row=None)
    return [int(row.one("span", cls="feature-number").text) for row in rows]


# --- cards


async def test_a_card_shows_three_examples(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    page = parse((await client.get(f"{base}/features?view=cards&sort=index")).text)
    cards = page.all("a", cls="feature-card")
    assert [int(card.one("span", cls="feature-number").text) for card in cards] == list(range(24))
    for card, row in zip(cards, made.features.rows(), strict=True):
        top = [each for each in made.features.examples() if (each.feature, each.band) == (row.number, 0)]
        lines = card.all("span", cls="line")
        assert len(lines) == min(3, len(top))
        for line, example in zip(lines, top, strict=False):
            token = made.corpus.token_ids[example.sequence, example.position]
            shown = line.one("span", cls="line-after").all("span", cls="t")[0]
            assert f"token {token} · position {example.position}" in shown["title"]
    assert "never active" in cards[23].text
    assert not page.all("a", cls="feature-row")


@pytest.mark.own_database
async def test_the_view_is_kept_by_everything_but_the_link_to_the_other(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await make_sae(engine, slug="wide", features=70)
    page = parse((await client.get("/saes/wide/features?view=cards&sort=index&min_density=0")).text)
    views = {link.text: link for link in page.one("span", cls="views").all("a")}
    assert views["cards"]["aria-current"] == "true"
    assert "aria-current" not in views["table"].attributes
    assert views["table"]["href"] == "/saes/wide/features?sort=index&min_density=0.0"
    assert page.one("input", name="view", type="hidden")["value"] == "cards"
    assert "view=cards" in page.one("ul", cls="set-filters").one("a")["href"]
    more = page.one("a", data_more=None)
    rows = parse((await client.get(more["hx-get"], headers=HTMX)).text)
    assert [int(card.one("span", cls="feature-number").text) for card in rows.all("a", cls="feature-card")] == [
        *range(50, 70)
    ]
    fragment = await client.get("/saes/wide/features?view=cards&q=&sort=", headers=HTMX)
    assert fragment.headers["HX-Push-Url"] == "/saes/wide/features?view=cards"
    assert not parse((await client.get("/saes/wide/features")).text).all("input", name="view")


# --- the best match first


@pytest.mark.own_database
async def test_a_search_shows_the_best_match_first_and_why(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    await add_label(session, made.sae, 2, "<i>rhythm</i>", categories=("music",))
    await add_label(session, made.sae, 2, "newer, of another kind", author="grace")
    await session.commit()
    response = await client.get(f"{base}/features?q=r")
    first, *others = parse(response.text).all("a", data_row=None)
    assert first.one("span", cls="feature-number").text == "2"
    assert first.one("span", cls="feature-label").text == "<i>rhythm</i>"
    assert first.one("span", cls="feature-label").one("mark").text == "rhythm"
    by_category = parse((await client.get(f"{base}/features?q=music")).text).all("a", data_row=None)[0]
    assert by_category.one("span", cls="tags").one("mark").text == "music"

    api = (await client.get(f"/api/v1{base}/features?q=r")).json()["features"]
    download = (await client.get(f"/api/v1{base}/features/export?format=json&q=r")).json()
    assert [row["index"] for row in api] == [row["index"] for row in download] == numbers(parse(response.text))
    assert (api[0]["index"], api[0]["match_label"]) == (2, "<i>rhythm</i>")
    shares = [row["match_share"] for row in api[1:]]
    assert len(shares) > 1
    assert shares == sorted(shares, reverse=True)
    for row, shown in zip(api[1:], others, strict=True):
        matching = [token for token in row["top_tokens"] if token["text"].strip().lower().startswith("r")]
        assert row["match_share"] == pytest.approx(sum(token["share"] for token in matching))
        assert [
            (matched.one("mark").text, matched.one("span", cls="number").text)
            for matched in shown.one("span", cls="tokens").all("span", cls="matched")
        ] == [(token["text"], percent(token["share"])) for token in matching[:4]]
    unsearched = (await client.get(f"/api/v1{base}/features?limit=1")).json()["features"][0]
    assert (unsearched["match_share"], unsearched["match_label"]) == (None, None)


async def test_a_search_that_finds_nothing_offers_search_by_example(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features?{urlencode({'q': 'rhythm & zzzzz'})}")).text)
    (link,) = [link for link in page.one("div", cls="empty").all("a") if "by-example" in link["href"]]
    form = parse((await client.get(link["href"])).text)
    assert form.one("textarea", id="text").text.strip() == "rhythm & zzzzz"
    nothing = parse((await client.get(f"{base}/features?health=dead&token=zzz")).text)
    assert not [link for link in nothing.one("div", cls="empty").all("a") if "by-example" in link["href"]]


# --- misspelt searches


async def test_a_misspelt_search_says_what_it_shows(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    meant = parse((await client.get(f"{base}/features?q=followed")).text)
    page = parse((await client.get(f"{base}/features?q=folowwed")).text)
    assert numbers(page) == numbers(meant) != []
    said = page.one("p", cls="corrected")
    assert said.line == "Nothing matches ‘folowwed’; showing ‘followed’."
    assert said.one("a")["href"] == f"{base}/features?q=followed"
    assert page.one("input", id="q")["value"] == "folowwed"
    download = page.one("span", cls="downloads").all("a")[1]["href"]
    assert [feature["index"] for feature in (await client.get(download)).json()] == numbers(meant)
    assert not meant.all("p", cls="corrected")

    api = (await client.get(f"/api/v1{base}/features?q=folowwed&limit=1")).json()
    assert (api["corrected"], api["total"]) == ("followed", len(numbers(meant)))
    exported = (await client.get(f"/api/v1{base}/features/export?format=jsonl&q=folowwed")).text
    assert [json.loads(line)["index"] for line in exported.splitlines()] == numbers(meant)


async def test_a_misspelt_search_that_the_filters_leave_empty_says_both(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features?q=folowwed&health=dead")).text)
    assert page.one("p", cls="corrected").line == "Nothing matches ‘folowwed’; looked for ‘followed’ instead."
    assert "No feature passes" in page.one("div", cls="empty").text


# --- what is wrong


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("min_density=0.1&max_density=0.01", "swap the two"),
        ("min_max=3&max_max=2", "swap the two"),
        ("label=unlabelled&author=ada", "drop one of the two"),
        ("max_max=abc", "an activation, a number from 0 up"),
        ("sort=colour", "is not a valid sort"),
        ("view=map", "is not a valid view"),
        ("q=" + "x" * 201, "at most 200 characters; this one has 201"),
        ("q=" + "x" * 10_000, "at most 200 characters; this one has 10,000"),
        ("token=" + "x" * 10_000, "at most 200 characters"),
        ("q=a%00b", "no NUL"),
    ],
)
async def test_a_wrong_filter_is_explained_instead_of_the_list(
    client: httpx.AsyncClient, base: str, query: str, said: str
) -> None:
    page = await client.get(f"{base}/features?{query}")
    fragment = await client.get(f"{base}/features?{query}", headers=HTMX)
    for response in (page, fragment):
        assert response.status_code == 422
        tree = parse(response.text)
        assert said in tree.one("div", cls="error", role="alert").text
        assert not numbers(tree)
    assert parse(page.text).one("form", role="search")
    assert "<form" not in fragment.text
    assert "HX-Retarget" not in fragment.headers  # swapped where the list would be
    assert urlsplit(fragment.headers["HX-Push-Url"]).path == f"{base}/features"


async def test_a_long_search_is_refused_by_the_api_with_its_limit(client: httpx.AsyncClient, base: str) -> None:
    for path in ("features", "features/export"):
        response = await client.get(f"/api/v1{base}/{path}", params={"q": "x" * 10_000})
        assert response.status_code == 422
        assert "200 characters" in response.json()["detail"]


@pytest.mark.own_database
async def test_a_cursor_of_another_order_is_refused(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug="wide", features=70)
    page = parse((await client.get("/saes/wide/features?sort=max")).text)
    (cursor,) = parse_qs(urlsplit(page.one("a", data_more=None)["href"]).query)["cursor"]
    query = urlencode({"sort": "mean", "cursor": cursor})
    for headers in ({}, HTMX):
        response = await client.get(f"/saes/wide/features?{query}", headers=headers)
        assert response.status_code == 422
        assert "another order: start again without it" in parse(response.text).one("div", cls="error").text
    assert response.headers["HX-Retarget"] == "#results"  # not in place of the button that was clicked
    assert "another order" in (await client.get(f"/api/v1/saes/wide/features?{query}")).json()["detail"]


@pytest.mark.own_database
@pytest.mark.parametrize("text", ["مرحبا بالعالم", "שלום", "e\u0301\u0302\u0303", "\u202eabc", "👩‍👩‍👧", "\u200b", "ﷺ"])
async def test_any_script_can_be_searched(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession, text: str
) -> None:
    nothing = await client.get(f"{base}/features", params={"q": text})
    assert nothing.status_code == 200
    assert parse(nothing.text).one("input", id="q")["value"] == text.strip()
    await add_label(session, made.sae, 4, f"what {text} says")
    await session.commit()
    page = parse((await client.get(f"{base}/features", params={"q": text})).text)
    assert 4 in numbers(page)  # others too where all that counts as a letter is an e
    assert page.one("span", cls="feature-label").text == f"what {text} says"


@pytest.mark.own_database
@pytest.mark.parametrize("view", ["table", "cards"])
async def test_markup_is_text_and_parts_of_characters_are_bytes(
    client: httpx.AsyncClient, engine: AsyncEngine, view: str
) -> None:
    """Every token of the vocabulary is a top token of some feature: one of markup, or of a part of a character."""
    made = await make_sae(engine, slug="hostile", features=60, sequences=200)
    vocabulary = made.corpus.vocabulary
    tops = {row.number: [vocabulary[token] for token in row.top_token_ids[:4]] for row in made.features.rows()}
    page = await client.get(f"/saes/hostile/features?view={view}&sort=index")
    more = await client.get(parse(page.text).one("a", data_more=None)["href"])
    assert "<script>alert" not in page.text + more.text
    names = {}
    for tree in (parse(page.text), parse(more.text)):
        for row in tree.all("a", data_row=None):
            names[int(row.one("span", cls="feature-number").text)] = row.one("span", cls="feature-name")
    shown = " ".join(name.text for name in names.values())
    hostile = {token for top in tops.values() for token in top if b"<" in token}
    partial = {token for top in tops.values() for token in top if token in (b"\xf0\x9f", b"\x8e\xbb", b"\xc3", b"\xa9")}
    assert hostile | partial, "the made-up index has none"
    for token in hostile:
        assert token.decode() in shown
    for token in partial:
        owner = next(number for number, top in tops.items() if token in top)
        chips = [chip.text for chip in names[owner].all("span", cls="chip")]
        assert {f"{byte:02X}" for byte in token} <= set(chips)


# --- any filter


def spelled(made: Synthetic, row: FeatureStatisticsRow, word: str) -> bool:
    """True if a word of the top tokens starts with the prefix."""
    texts = (made.corpus.vocabulary[token].decode(errors="ignore").lower() for token in row.top_token_ids)
    return any(found.startswith(word) for text in texts for found in words(text))


_density = st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.05, 0.08, 0.2, 1.0])
_maximum = st.sampled_from([0.0, 1.0, 4.0, 6.5, 8.0, 12.0, 1e9])
FILTERS = st.fixed_dictionaries(
    {"sort": st.sampled_from([name for name in list(SORTS)[1:] if not name.startswith(("effect", "coherence"))])},
    optional={
        "min_density": _density,
        "max_density": _density,
        "min_max": _maximum,
        "max_max": _maximum,
        "q": st.sampled_from(["rhy", "co", "me", "orb", "fol", "lake"]),
        "health": st.sampled_from(["dead", "dense", "duplicate", "single_token"]),
        "token": st.sampled_from(["rhythm", "of", "."]),
        "promotes": st.sampled_from(["river", "of"]),
        "topic": st.sampled_from(["Music", "Law"]),
        "label": st.sampled_from(["labelled", "unlabelled"]),
        "author": st.sampled_from(["ada", "kay", "nobody"]),
        "category": st.sampled_from(["law", "music"]),
    },
)


def contradicts(query: dict[str, Any]) -> bool:
    ranges = (("min_density", "max_density"), ("min_max", "max_max"))
    return any(query.get(low, 0) > query.get(high, 2e9) for low, high in ranges) or (
        query.get("label") == "unlabelled" and ("author" in query or "category" in query)
    )


def expected(made: Synthetic, query: dict[str, Any]) -> list[int]:
    """Return the features that a filter in memory selects, in order."""
    filter = FeatureFilter(**{name: value for name, value in query.items() if name not in ("sort", "q")})
    order = SORTS[query["sort"]][1]
    column = "number" if order.sort == "index" else order.sort
    rows = [
        row
        for row in made.features.rows()
        if passes(made, row, filter) and ("q" not in query or spelled(made, row, query["q"]))
    ]
    rows.sort(key=lambda row: (getattr(row, column), row.number), reverse=order.descending)
    return [row.number for row in rows]


async def paged(client: httpx.AsyncClient, address: str, query: dict[str, Any]) -> list[int]:
    """Return the feature numbers of all pages of the API."""
    found: list[int] = []
    while True:
        page = (await client.get(address, params=query)).json()
        found += [feature["index"] for feature in page["features"]]
        if page["next_cursor"] is None:
            assert page["total"] == len(found)
            return found
        query = query | {"cursor": page["next_cursor"]}


@pytest.fixture
async def labelled(session: AsyncSession, made: Synthetic) -> Synthetic:
    for feature, author, category, status in LABELS:
        await add_label(session, made.sae, feature, "a label", author=author, categories=(category,), status=status)
    await session.commit()
    return made


@pytest.mark.slow
@pytest.mark.own_database
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=FILTERS, limit=st.integers(1, 7))
async def test_page_api_and_download_agree_with_a_filter_in_memory(
    client: httpx.AsyncClient, labelled: Synthetic, base: str, query: dict[str, Any], limit: int
) -> None:
    page = await client.get(f"{base}/features", params=query)
    name, _, direction = query["sort"].partition("-")
    order = {"sort": name, "descending": SORTS[query["sort"]][1].descending}
    assert direction in ("", "asc", "desc")
    wanted = query | order | {"limit": limit}
    if contradicts(query):
        assert page.status_code == (await client.get(f"/api/v1{base}/features", params=wanted)).status_code == 422
        return
    truth = expected(labelled, query)
    assert numbers(parse(page.text)) == truth
    assert await paged(client, f"/api/v1{base}/features", wanted) == truth
    exported = (await client.get(f"/api/v1{base}/features/export", params=query | order | {"format": "json"})).json()
    assert [feature["index"] for feature in exported] == truth


# --- coherence

COHERENCE = [None if number > 20 else 0.25 * number for number in range(24)]


@pytest.mark.own_database
async def test_the_most_coherent_features_come_first(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug="coherent", coherence=COHERENCE)
    page = parse((await client.get("/saes/coherent/features")).text)
    assert numbers(page) == [*range(20, -1, -1), 23, 22, 21]
    assert [row.text for row in page.all("span", cls="feature-coherence")][:2] == [
        "coherence 5.00 bits",
        "coherence 4.75 bits",
    ]
    assert len(page.all("span", cls="feature-coherence")) == 21
    orders = {option["value"]: option.text for option in page.one("select", id="sort").all("option")}
    assert orders[""] == "best match, most coherent"
    assert orders["coherence"] == "most coherent first"
    cards = parse((await client.get("/saes/coherent/features?view=cards")).text)
    assert "coherence 5.00 bits" in " ".join(cards.all("a", cls="feature-card")[0].text.split())
    by_density = parse((await client.get("/saes/coherent/features?sort=density")).text)
    assert numbers(by_density) != numbers(page)
    assert not by_density.all("span", cls="feature-coherence")
    listed = (await client.get("/api/v1/saes/coherent/features?limit=2")).json()
    assert [(row["index"], row["coherence"]) for row in listed["features"]] == [(20, 5.0), (19, 4.75)]
    last = (await client.get("/api/v1/saes/coherent/features?sort=coherence&descending=false&limit=1")).json()
    assert [(row["index"], row["coherence"]) for row in last["features"]] == [(21, None)]


async def test_an_index_without_coherence_lists_the_most_active_features_first(
    client: httpx.AsyncClient, made: Synthetic, base: str
) -> None:
    page = parse((await client.get(f"{base}/features")).text)
    orders = {option["value"]: option.text for option in page.one("select", id="sort").all("option")}
    assert orders[""] == "best match, most active"
    assert "coherence" not in orders
    assert numbers(page) == numbers(parse((await client.get(f"{base}/features?sort=density")).text))
    assert (await client.get(f"{base}/features?sort=coherence")).status_code == 200


@pytest.mark.own_database
async def test_a_feature_says_how_coherent_it_is_and_what_that_is(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    await make_sae(engine, slug="coherent", coherence=COHERENCE)
    page = parse((await client.get("/saes/coherent/features/10")).text)
    (meaning,) = [found for found in page.all("abbr") if found.text == "coherence"]
    assert "from 0 for tokens drawn at random to 1 for one token" in meaning["title"]
    assert "2.50 bits" in page.text
    assert (await client.get("/api/v1/saes/coherent/features/10")).json()["coherence"] == 2.5
    without = parse((await client.get("/saes/coherent/features/22")).text)
    assert not [found for found in without.all("abbr") if found.text == "coherence"]
    assert (await client.get("/api/v1/saes/coherent/features/22")).json()["coherence"] is None


# --- kept results


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[FeatureFilter]:
    """The filters that the database was asked for."""
    asked: list[FeatureFilter] = []

    async def count(session: AsyncSession, sae: SaeDetail, filter: FeatureFilter, **options: Any) -> FeaturePage:
        asked.append(filter)
        return await list_features(session, sae, filter, **options)

    monkeypatch.setattr(feature_list, "list_features", count)
    return asked


@pytest.mark.own_database
async def test_a_list_is_rendered_once_until_a_label_changes(
    client: httpx.AsyncClient, engine: AsyncEngine, session: AsyncSession, searches: list[FeatureFilter]
) -> None:
    made = await make_sae(engine, slug="seen", features=8)
    first = (await client.get("/saes/seen/features")).text
    assert (await client.get("/saes/seen/features")).text == first
    assert (await client.get("/saes/seen/features", headers=HTMX)).text in first
    assert len(searches) == 1
    await client.get("/saes/seen/features?sort=density")
    assert len(searches) == 2
    await add_label(session, made.sae, 3, "the word once more")
    await session.commit()
    assert "the word once more" in (await client.get("/saes/seen/features")).text
    assert len(searches) == 3


@pytest.mark.own_database
async def test_a_refused_cursor_is_not_kept(
    client: httpx.AsyncClient, engine: AsyncEngine, searches: list[FeatureFilter]
) -> None:
    await make_sae(engine, slug="wrong", features=8)
    for asked in (1, 2):
        assert (await client.get("/saes/wrong/features?cursor=nonsense")).status_code == 422
        assert len(searches) == asked
