"""DELETE: what it answers, and what it refuses."""

from urllib.parse import quote

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.artifacts import Artifacts
from app.queries import runs
from app.services.deletion import corpus_name
from app.settings import Settings
from tests.factories import Synthetic, add_label
from tests.web.api.problems import problem
from tests.web.site import site

API = "/api/v1"


async def test_an_sae_its_index_its_corpus_and_its_model_are_deleted(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession, settings: Settings
) -> None:
    await add_label(session, made.sae, 1, "music")
    await session.commit()
    weights = Artifacts(settings.artifacts).sae(made.sae.slug)
    weights.mkdir(parents=True)
    (weights / "sae_weights.safetensors").write_bytes(b"x" * 1234)
    assert made.sae.index is not None
    corpus = corpus_name(made.sae.index.sequence_set.corpus)
    sae = f"{API}/saes/{made.sae.slug}"

    refused = await client.delete(f"{API}/models/tiny")
    assert made.sae.slug in problem(refused, 409)["detail"]
    assert (await client.delete(f"{sae}/index")).json()["database_bytes"] > 0
    assert (await client.get(sae)).json()["index"] is None
    gone = (await client.delete(sae)).json()
    assert (gone["kind"], gone["labels"], gone["file_bytes"]) == ("sae", 1, 1234)
    assert weights.exists()  # a worker removes it, which has the files for certain
    assert (await client.get(sae)).status_code == 404
    assert (await client.delete(sae)).status_code == 404
    assert (await client.delete(f"{API}/corpora/{quote(corpus)}")).json()["name"] == corpus
    assert (await client.delete(f"{API}/models/tiny")).json()["kind"] == "model"
    assert (await client.get(f"{API}/saes")).json() == {"saes": []}


async def test_what_a_run_uses_is_refused(client: httpx.AsyncClient, made: Synthetic, session: AsyncSession) -> None:
    params = {"sae": made.sae.slug}
    run = await runs.create_run(session, kind="index", title="Index it", params=params, stages=[], created_by="ada")
    await runs.set_job(session, run.id, 1)
    await session.commit()
    refused = problem(await client.delete(f"{API}/saes/{made.sae.slug}"), 409)
    assert refused["title"] == "In use"
    assert f"run {run.id} (Index it) is queued" in refused["detail"]


@pytest.mark.parametrize("name", ["nothing", "..%2F..%2Fsaes", "%00", "a" * 5000, "%F0%9F%98%80", "x%2Fy"])
@pytest.mark.parametrize("route", ["saes/{}", "saes/{}/index", "models/{}", "corpora/{}"])
async def test_unknown_names_are_not_found(client: httpx.AsyncClient, made: Synthetic, route: str, name: str) -> None:
    assert (await client.delete(f"{API}/{route.format(name)}")).status_code in (404, 405, 422)
    assert (await client.get(f"{API}/saes/{made.sae.slug}")).status_code == 200


async def test_visitors_of_a_site_that_takes_no_runs_delete_nothing(settings: Settings, made: Synthetic) -> None:
    closed = settings.model_copy(update={"submit_runs": False})
    async with site(closed) as client:
        assert "SEESAE_SUBMIT_RUNS" in problem(await client.delete(f"{API}/saes/{made.sae.slug}"), 403)["detail"]
        page = await client.get(f"/saes/{made.sae.slug}/delete")
        assert f"seesae delete sae {made.sae.slug}" in page.text
        assert "<form" not in page.text.split("<main")[1].split("</main")[0]
