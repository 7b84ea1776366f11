"""The pages that ask, without JavaScript."""

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries import runs
from tests.factories import Synthetic, add_label, make_sae
from tests.web.html import parse


async def test_the_page_states_what_goes_and_the_button_deletes_it(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, base: str
) -> None:
    await add_label(session, made.sae, 1, "music")
    await session.commit()
    assert parse((await client.get(base)).text).all("a", href=f"{base}/delete")
    page = parse((await client.get(f"{base}/delete")).text).one("main")
    text = " ".join(page.text.split())
    for said in (f"Delete the SAE {made.sae.slug}?", "Its 24 features", "1 label by 1 person", "on disk", "stay"):
        assert said in text
    [form] = page.all("form", method="post")
    csv = f"/api/v1/saes/{made.sae.slug}/labels/export?format=csv"
    assert page.all("a", href=csv)
    assert "music" in (await client.get(csv)).text

    sent = {field["name"]: field["value"] for field in form.all("input")}
    done = await client.post(form["action"], data=sent)
    assert done.status_code == 200
    freed = {link["href"] for link in parse(done.text).one("main").all("a")}
    assert "/models/tiny/delete" in freed
    assert (await client.get(base)).status_code == 404
    assert (await client.post(form["action"], data=sent)).status_code == 404
    for address in [address for address in freed if address.endswith("/delete")][::-1]:
        assert (await client.get(address)).status_code == 200
        assert (await client.post(address)).status_code == 200, address
        assert (await client.get(address)).status_code == 404


async def test_an_index_is_deleted_on_a_page_of_its_own(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    page = parse((await client.get(f"{base}/index/delete")).text).one("main")
    assert f"seesae index {made.sae.slug}" in page.text
    assert (await client.post(f"{base}/index/delete")).status_code == 200
    assert "No index yet" in (await client.get(base)).text
    assert (await client.get(f"{base}/index/delete")).status_code == 404


async def test_labels_that_are_written_while_the_page_is_open_are_shown_first(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, base: str
) -> None:
    await add_label(session, made.sae, 1, "music")
    await session.commit()
    asked = await client.post(f"{base}/delete", data={"version": 0})
    assert asked.status_code == 409
    assert "were written since" in asked.text
    assert "1 label by 1 person" in asked.text
    [form] = parse(asked.text).one("main").all("form", method="post")
    sent = {field["name"]: field["value"] for field in form.all("input")}
    assert (await client.post(form["action"], data=sent)).status_code == 200


async def test_what_a_run_uses_is_refused_by_name(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, base: str
) -> None:
    params = {"sae": made.sae.slug}
    run = await runs.create_run(session, kind="index", title="Index it", params=params, stages=[], created_by="ada")
    await runs.set_job(session, run.id, 1)
    await session.commit()
    for response in (await client.get(f"{base}/delete"), await client.post(f"{base}/delete", data={"version": 0})):
        assert response.status_code == 409
        assert f"run {run.id} (Index it)" in response.text


@pytest.mark.parametrize("version", ["", "x", str(2**70)])
async def test_a_crafted_version_deletes_nothing(
    client: httpx.AsyncClient, made: Synthetic, base: str, version: str
) -> None:
    assert (await client.post(f"{base}/delete", data={"version": version})).status_code in (409, 422)
    assert (await client.get(base)).status_code == 200


async def test_a_model_whose_name_is_hostile_has_a_page(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine)
    for name in ("../..", "<script>", "a/b/delete", "%00"):
        assert (await client.get(f"/models/{name}/delete")).status_code in (404, 422)
