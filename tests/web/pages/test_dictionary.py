"""The dictionary: what is agreed, what is not, search, files, and citations of earlier indexes."""

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.decisions import DecisionText
from app.services.actors import Actor
from app.services.adjudication import decide
from app.services.dictionary import current_hash
from tests.factories import Synthetic, publish_features
from tests.labelling import label, make_set
from tests.synthetic import make_features
from tests.web.html import parse


async def test_agreed_features_are_found_scored_and_cited(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, engine: AsyncEngine
) -> None:
    sae = made.sae
    base = f"/saes/{sae.slug}/dictionary"
    assert "Nothing agreed yet" in (await client.get(base)).text
    of = await make_set(engine, sae)
    blind = await make_set(engine, sae, "blind", blind=True)
    three = await make_set(engine, sae, "three", needed=3)
    for person in ("ada", "grace"):
        await label(
            session,
            sae,
            1,
            person,
            "Rivers, and <b>lakes</b>!" if person == "ada" else "rivers and  b LAKES b",
            "names",
        )
        await label(session, sae, 2, person, f"not the same, {person}")
        await label(session, sae, 3, person, "hidden", label_set="blind")
        await label(session, sae, 4, person, "too few", label_set="three")
        await label(session, sae, 6, person, "alone" if person == "ada" else "", cant_tell=person == "grace")
        await label(session, sae, 8, person, "same", interpretability=2 if person == "ada" else 3)
        await label(session, sae, 9, person, "same", "names" if person == "ada" else "medicine")
    await label(session, sae, 5, "ada", "one person")
    await label(session, sae, 7, "ada", "=undecided")
    await decide(session, of, sae, 7, actor=Actor("boss"), text=DecisionText("=decided", ("names",)), replaces=None)
    await session.commit()

    answer = (await client.get(f"/api/v1{base}")).json()
    assert [(one["feature"], one["by"], one["people"]) for one in answer["entries"]] == [
        (1, "agreement", 2),
        (7, "decision", 1),
    ]
    assert (answer["index"], answer["total"], answer["newer"]) == (current_hash(sae), 2, False)
    page = await client.get(f"/api/v1{base}?limit=1")
    assert page.json()["next_after"] == 1
    rest = await client.get(f"/api/v1{base}?limit=1&after=1")
    assert ([one["feature"] for one in rest.json()["entries"]], rest.json()["next_after"]) == ([7], None)
    found = await client.get(f"/api/v1{base}?q=LAKES%20rivers")
    assert [one["feature"] for one in found.json()["entries"]] == [1]
    table = (await client.get(f"/api/v1{base}/export?format=csv")).text
    assert "'=decided" in table

    shown = parse((await client.get(base)).text)
    assert len(shown.one("table").one("tbody").all("tr")) == 2
    assert "<b>lakes</b>" not in (await client.get(base)).text
    assert f"?index={current_hash(sae)}" in shown.one("pre").text
    assert "Nothing found" in (await client.get(f"{base}?q=nothing")).text

    await session.execute(text("UPDATE label SET withheld = false"))
    await session.execute(
        text("UPDATE label_set SET closed_at = now() WHERE id = ANY(:ids)"), {"ids": [blind.id, three.id]}
    )
    await session.commit()
    closed = (await client.get(f"/api/v1{base}")).json()
    assert [one["feature"] for one in closed["entries"]] == [1, 3, 4, 7]

    assert not any(one["withdrawn"] for one in closed["entries"])
    await session.execute(text("UPDATE label SET status = 'discarded' WHERE feature = 7"))
    await session.commit()
    *_, decided = (await client.get(f"/api/v1{base}")).json()["entries"]
    assert (decided["feature"], decided["withdrawn"]) == (7, True)
    assert "labels were all discarded since" in (await client.get(base)).text

    assert sae.index is not None
    cited = f"{base}?index={current_hash(sae)}"
    assert "newer index" not in (await client.get(cited)).text
    again = make_features(made.corpus, n=24, seed=5)
    await publish_features(engine, sae, sae.index.sequence_set.id, again)
    assert "newer index" in (await client.get(cited)).text
    assert (await client.get(f"/api/v1{cited}")).json()["newer"] is True
    assert (await client.get(f"{base}?index=0000")).status_code == 404
