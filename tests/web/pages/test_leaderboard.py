import json

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.factories import Synthetic
from tests.measured import TEXT, add, measured
from tests.probing import probing
from tests.web.html import Element, parse


async def get(client: httpx.AsyncClient, status: int = 200, **query: str) -> Element:
    answer = await client.get("/compare", params=query)
    assert answer.status_code == status, answer.text
    return parse(answer.text)


def rows(page: Element, number: int = 0) -> list[list[str]]:
    """The cells of a table of the leaderboard, with its heading."""
    table = page.all("table", cls="board")[number]
    return [[cell.line for cell in (*row.all("th"), *row.all("td"))] for row in table.all("tr")]


@pytest.fixture
async def three(session: AsyncSession, made: Synthetic) -> None:
    """Three SAEs that compare, of which one is dominated, and one that nobody measured."""
    sets = probing(imdb={}, languages={"random": (0.0, -0.1, 0.1)})
    await add(session, made, "small", measured(8, 0.8, 0.9, probing=sets), samples=400_000)
    await add(session, made, "large", measured(64, 0.9, 0.97))
    await add(session, made, "dominated", measured(70, 0.85, 0.96))
    await add(session, made, "unmeasured")
    await session.commit()


@pytest.mark.usefixtures("three")
async def test_saes_stand_beside_each_other_with_intervals(client: httpx.AsyncClient) -> None:
    page = await get(client)
    about = page.all("p", cls="board-about")[0].line
    assert about.startswith(f"{TEXT['corpus']} 3 SAEs measured on the same 100 held-out tokens")
    heading, *others = rows(page)
    assert heading[:4] == ["SAE", "L0", "explained variance ↓", "loss recovered"]
    assert [row[0].split()[0] for row in others] == ["large", "dominated", "small"]
    assert others[0][0] == "large frontier"
    assert "frontier" not in others[1][0]
    assert others[0][2] == "0.9000.890 – 0.920"
    assert others[2][5] == "better at sentimentnot shown at languages"
    assert others[0][5] == "not evaluated"
    assert others[0][6] == "not compared"
    assert [row[8] for row in others] == ["elsewhere", "elsewhere", "400,000"]
    missing = [line.line for line in page.all("p", cls="board-missing")]
    assert missing[0] == (
        "2 SAEs not compared with random dictionaries. To do it for the first: "
        "seesae evaluate large --corpus CORPUS --probing builtin"
    )


@pytest.mark.usefixtures("three")
async def test_an_sae_that_nobody_measured_has_the_command(client: httpx.AsyncClient, made: Synthetic) -> None:
    page = await get(client)
    titles = [line.line for line in page.all("p", cls="board-about")]
    assert titles[1].startswith("Text that was not recorded 1 SAE")
    assert titles[2] == "Not evaluated 1 SAE that nobody has measured"
    assert rows(page, 2)[1][-1] == "seesae evaluate unmeasured --corpus CORPUS"
    assert f"seesae evaluate {made.sae.slug}" in page.one("main").text, "its text is known"


@pytest.mark.usefixtures("three")
async def test_a_heading_sorts_and_turns(client: httpx.AsyncClient) -> None:
    page = await get(client, sort="l0")
    assert [row[0].split()[0] for row in rows(page)[1:]] == ["small", "large", "dominated"]
    heading = page.all("table", cls="board")[0].one("th", **{"aria-sort": "ascending"})
    assert heading.line == "L0 ↑"
    link = heading.one("a")["href"]
    assert link == "/compare?model=tiny&sort=l0&order=desc"
    turned = parse((await client.get(link)).text)
    assert [row[0].split()[0] for row in rows(turned)[1:]] == ["dominated", "large", "small"]


@pytest.mark.usefixtures("three")
async def test_the_frontier_is_drawn_with_its_numbers(client: httpx.AsyncClient) -> None:
    page = await get(client)
    charts = page.all("figure", cls="chart")
    assert [chart.one("figcaption").one("b").line for chart in charts] == [
        "Sparsity and explained variance",
        "Sparsity and loss recovered",
    ]
    figure = json.loads(charts[0].one("script").text)
    others, frontier = figure["data"]
    assert (others["text"], frontier["text"]) == (["dominated"], ["small", "large"])
    assert (frontier["x"], frontier["y"]) == ([8, 64], [0.8, 0.9])
    assert frontier["error_y"]["array"] == pytest.approx([0.02, 0.02])
    assert frontier["error_y"]["arrayminus"] == pytest.approx([0.01, 0.01])
    assert figure["layout"]["xaxis"]["type"] == "log"
    numbers = [[cell.line for cell in row.all("td")] for row in charts[0].one("table").all("tr")[1:]]
    assert numbers[-1] == ["dominated", "70.0", "0.850", "no"]


@pytest.mark.usefixtures("three")
async def test_what_is_not_there_is_refused(client: httpx.AsyncClient) -> None:
    assert "named “gpt-2”" in (await get(client, 404, model="gpt-2")).one("main").text
    assert "no order “size”" in (await get(client, 422, sort="size")).one("main").text
    assert "no direction “up”" in (await get(client, 422, order="up")).one("main").text


async def test_sixty_saes_stay_one_table(client: httpx.AsyncClient, session: AsyncSession, made: Synthetic) -> None:
    for number in range(60):
        await add(session, made, f"one-of-{number:02}", measured(number + 1, 0.5 + number / 200, 0.9))
    await session.commit()
    page = await get(client, sort="name")
    assert len(rows(page)) == 61
    frontier = json.loads(page.all("figure", cls="chart")[1].one("script").text)["data"][1]
    assert frontier["text"] == ["one-of-00"], "all recover as much of the loss"
