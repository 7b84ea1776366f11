import httpx

from tests.factories import Synthetic
from tests.web.html import parse


async def test_what_no_sae_uses_can_be_deleted_from_the_page(client: httpx.AsyncClient, made: Synthetic) -> None:
    assert "/models" in {link["href"] for link in parse((await client.get("/runs")).text).one("main").all("a")}
    page = parse((await client.get("/models")).text).one("main")
    assert f"/saes/{made.sae.slug}" in {link["href"] for link in page.all("a")}
    assert not [link for link in page.all("a") if link["href"].endswith("/delete")]
    assert (await client.delete(f"/api/v1/saes/{made.sae.slug}")).status_code == 200
    while links := [
        link["href"]
        for link in parse((await client.get("/models")).text).one("main").all("a")
        if link["href"].endswith("/delete")
    ]:
        assert (await client.get(links[0])).status_code == 200
        gone = parse((await client.post(links[0], data={"version": "0"})).text)
        assert gone.one("p", cls="buttons").one("a")["href"] == "/models"
    assert "There are none yet" in parse((await client.get("/models")).text).one("main").text
