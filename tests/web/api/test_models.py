"""GET /models and /corpora: what there is, how large it is, and what uses it."""

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.artifacts import Artifacts
from app.settings import Settings
from tests.factories import Synthetic, make_sae

API = "/api/v1"


async def test_models_and_corpora_name_what_uses_them_and_can_be_deleted_by_name(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic, settings: Settings
) -> None:
    bare = (await make_sae(engine, slug="bare", publish=False)).sae
    folder = Artifacts(settings.artifacts).models / f"tiny-{made.sae.model.weights_sha256[:16]}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1234)
    [model] = (await client.get(f"{API}/models")).json()["models"]
    assert (model["name"], model["file_bytes"]) == ("tiny", 1234)
    assert model["saes"] == sorted([bare.slug, made.sae.slug])
    assert made.sae.index is not None
    [corpus] = [each for each in (await client.get(f"{API}/corpora")).json()["corpora"] if each["saes"]]
    assert corpus["saes"] == [made.sae.slug]
    assert corpus["tokens"] >= made.sae.index.sequence_set.tokens
    assert model["tokens"] >= corpus["tokens"]
    for slug in model["saes"]:
        assert (await client.delete(f"{API}/saes/{slug}")).status_code == 200
    for kind in ("models", "corpora"):
        for each in (await client.get(f"{API}/{kind}")).json()[kind]:
            assert each["saes"] == []
            assert (await client.delete(f"{API}/{kind}/{each['name']}")).status_code == 200
        assert (await client.get(f"{API}/{kind}")).json() == {kind: []}


async def test_no_folder_of_the_machine_is_shown(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    for table in ("language_model", "corpus"):
        await session.execute(text(f"UPDATE {table} SET source = '/private/place/' || source"))
    await session.commit()
    for address in (f"{API}/models", f"{API}/corpora", "/models"):
        answer = await client.get(address)
        assert answer.status_code == 200
        assert "private" not in answer.text
