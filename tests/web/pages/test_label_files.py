import httpx

from tests.factories import Synthetic

TABLE = "feature,author,explanation\n5,grace,rivers\n"


async def test_a_file_is_brought_once_and_mistakes_are_named(client: httpx.AsyncClient, made: Synthetic) -> None:
    url = f"/saes/{made.sae.slug}/labels"
    assert "history.jsonl" in (await client.get(url)).text
    for expected in ("1 label added", "1 were here already"):
        brought = await client.post(url, files={"file": ("labels.csv", TABLE)})
        assert (brought.status_code, expected in brought.text) == (200, True), brought.text
    wrong = await client.post(url, files={"file": ("labels.csv", TABLE.replace("rivers", "lakes") + "6,a,new\n")})
    assert (wrong.status_code, "Line 2: grace" in wrong.text) == (409, True)
    assert "new" not in (await client.get(f"/api/v1{url}/export?format=jsonl")).text
    for files in ({"file": ("labels.jsonl", b"\xff")}, {"file": ("labels.jsonl", b"")}, None):
        assert (await client.post(url, files=files)).status_code == 422
