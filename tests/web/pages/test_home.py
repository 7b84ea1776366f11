import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.saes import SaeDetail, set_metrics
from app.web.components.formatting import percent
from tests.factories import Synthetic, add_label, add_run, make_sae
from tests.measured import add, add_model, measured
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX


async def test_an_empty_site_says_what_to_do(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.status_code == 200
    assert response.headers["vary"].startswith("HX-Request")
    page = parse(response.text)
    assert page.one("h1").text == "See what a language model has learned"
    assert page.all("code", cls="command")[0].text == "seesae demo"


async def test_saes_are_listed_with_their_metrics(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine, session: AsyncSession
) -> None:
    bare = await make_sae(engine, slug="bare", publish=False)
    for sae in (made.sae, bare.sae):
        await set_metrics(session, sae.id, {"dead_fraction": 0.005})
    await add_label(session, made.sae, 3, "rivers & <lakes>")
    await session.commit()
    page = parse((await client.get("/")).text)
    rows = {row["href"]: row.text for row in page.all("a", cls="sae-row")}
    assert set(rows) == {f"/saes/{made.sae.slug}", f"/saes/{bare.sae.slug}"}
    shown = " ".join(rows[f"/saes/{made.sae.slug}"].split())
    assert f"BatchTopK, 24 features, k 4 · {made.features.tokens:,} tokens of Made-up sentences" in shown
    assert "0.812 explained variance" in shown
    assert "1 labelled" in shown
    dead = sum(row.count == 0 for row in made.features.rows())
    assert " ".join(f"{percent(dead / 24)} dead".split()) in shown  # as in its health table, not as in its evaluation
    unindexed = " ".join(rows["/saes/bare"].split())
    assert " ".join(f"{percent(0.005)} dead in evaluation".split()) in unindexed
    assert "not indexed yet" in rows["/saes/bare"]


async def test_features_of_the_newest_index_are_shown(client: httpx.AsyncClient, made: Synthetic) -> None:
    page = parse((await client.get("/")).text)
    rows = page.all("a", cls="feature-row")
    assert 0 < len(rows) <= 8
    assert all(row["href"].startswith(f"/saes/{made.sae.slug}/features/") for row in rows)
    assert all(row.all("span", cls="top") for row in rows)


async def test_active_runs_are_live(client: httpx.AsyncClient, made: Synthetic, session: AsyncSession) -> None:
    running = await add_run(session, made.sae, ends="running")
    await add_run(session, made.sae)
    await session.commit()
    page = parse((await client.get("/")).text)
    live = page.one("section", cls="run-live")
    assert live["sse-connect"] == f"/runs/{running.id}/events?view=card"
    assert "stage 2 of 3" in live.text
    assert live.one("progress")["value"] == "50000"
    assert any("htmx-ext-sse" in (script.attributes.get("src") or "") for script in page.all("script"))


async def test_during_the_first_run_the_page_does_not_say_how_to_start(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    nothing: SaeDetail | None = None
    await add_run(session, nothing, ends="running")
    await session.commit()
    page = parse((await client.get("/")).text)
    assert "The first SAE is on its way" in page.text
    assert not page.all("code", cls="command")


async def test_htmx_gets_the_list_only(client: httpx.AsyncClient, made: Synthetic) -> None:
    fragment = (await client.get("/", headers=HTMX)).text
    assert "<html" not in fragment
    assert parse(fragment).one("div", id="saes").all("a", cls="sae-row")


async def test_the_most_coherent_features_of_different_words_are_shown(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    coherence = [None if number % 7 == 0 else float(number) for number in range(60)]
    made = await make_sae(engine, slug="coherent", features=60, coherence=coherence)
    rows = {row.number: row for row in made.features.rows()}
    words = {
        number: {made.corpus.vocabulary[token].strip().lower() for token in row.top_token_ids[:4]}
        for number, row in rows.items()
    }
    expected: list[int] = []
    for number in sorted(rows, key=lambda number: coherence[number] or -1, reverse=True):
        if not any(words[number] & words[other] for other in expected):
            expected.append(number)
    page = parse((await client.get("/")).text)
    shown = [int(row.one("span", cls="feature-number").text) for row in page.all("a", cls="feature-row")]
    assert shown == expected[:8]
    assert shown[0] == 59
    assert set(shown) != set(range(59, 51, -1)), "features that share a word are left out"


def slugs(page: Element) -> list[str]:
    return [row["href"].removeprefix("/saes/") for row in page.all("a", cls="sae-row")]


@pytest.fixture
async def sixty(session: AsyncSession, made: Synthetic) -> None:
    """Fifty-nine SAEs of three models beside the one that is made; the model `wide` has the newest."""
    for name, number in (("deep", 25), ("wide", 34)):
        model_id = await add_model(session, name)
        for place in range(number):
            hook = f"resid_post.{place % 3}"
            slug = f"{name}-{place:02}"
            await add(session, made, slug, measured(place + 1, 0.8, 0.9), model_id=model_id, hook=hook)
    await session.commit()


@pytest.mark.usefixtures("sixty")
async def test_sixty_saes_are_shown_by_model_in_pages(client: httpx.AsyncClient, made: Synthetic) -> None:
    address: str | None = "/"
    seen: list[list[str]] = []
    headings: list[list[str]] = []
    while address:
        page = parse((await client.get(address)).text)
        assert page.one("h2", id="saes-title").line == "60 SAEs of 3 models"
        seen.append(slugs(page))
        headings.append([heading.line for heading in page.all("h3", cls="sae-model")])
        more = page.all("a", **{"data-more": None})
        address = more[0]["href"] if more else None
    wide, deep = (
        [f"{name}-{place:02}" for place in reversed(range(size))] for name, size in (("wide", 34), ("deep", 25))
    )
    assert [len(one) for one in seen] == [20, 20, 20]
    assert [slug for one in seen for slug in one] == [*wide, *deep, made.sae.slug]
    assert [[heading.split(",")[0] for heading in one] for one in headings] == [
        ["wide 34 SAEs"],
        ["wide 34 SAEs", "deep 25 SAEs"],
        ["deep 25 SAEs", "tiny 1 SAE"],
    ]


@pytest.mark.usefixtures("sixty")
async def test_saes_are_found_by_words_and_by_model(client: httpx.AsyncClient, made: Synthetic) -> None:
    page = parse((await client.get("/", params={"q": "RESID_POST.2 wide"})).text)
    assert slugs(page) == [f"wide-{place:02}" for place in range(32, 0, -3)]
    assert page.one("h2", id="saes-title").line == "11 of 60 SAEs of 3 models"
    assert page.one("input", id="q")["value"] == "RESID_POST.2 wide"
    assert not page.all("a", cls="feature-row"), "features of one SAE are no answer to a search"
    page = parse((await client.get("/", params={"model": "deep"})).text)
    assert len(slugs(page)) == 20
    following = parse((await client.get(page.one("a", **{"data-more": None})["href"])).text)
    assert slugs(following) == [f"deep-{place:02}" for place in (4, 3, 2, 1, 0)]
    assert following.one("option", selected=None)["value"] == "deep"
    page = parse((await client.get("/", params={"q": "made-up sentences"})).text)
    assert slugs(page) == [made.sae.slug], "by the title of its corpus"


@pytest.mark.usefixtures("sixty")
async def test_what_no_sae_matches_says_so(client: httpx.AsyncClient) -> None:
    page = parse((await client.get("/", params={"q": "nothing like it"})).text)
    assert "No SAE matches" in page.one("div", cls="empty").text
    page = parse((await client.get("/", params={"model": "gone"})).text)
    assert "No SAE matches" in page.one("div", cls="empty").text
    page = parse((await client.get("/", params={"after": "gone"})).text)
    assert slugs(page)[0] == "wide-33", "a page after an SAE that is gone is the first"


async def test_a_few_saes_need_no_filter(client: httpx.AsyncClient, made: Synthetic) -> None:
    page = parse((await client.get("/")).text)
    assert not page.all("form", cls="sae-filter")
    assert not page.all("h3", cls="sae-model")
