import math

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.errors import Conflict
from app.queries.publish import FeatureStatisticsRow, publish_index
from app.queries.saes import SaeRow, get_sae, list_saes, register_sae, set_metrics
from tests.factories import add_label, make_sae


async def test_an_sae_has_its_provenance(engine: AsyncEngine, session: AsyncSession) -> None:
    made = await make_sae(engine)
    sae = await get_sae(session, made.sae.slug)
    assert sae
    assert (sae.slug, sae.hook, sae.d_sae, sae.model.name) == (made.sae.slug, "resid_post.1", 24, "tiny")
    assert sae.index
    assert sae.index.tokens == made.features.tokens
    assert sae.index.provenance["seed"] == 0
    assert sae.index.sequence_set.corpus.licence == "CC0-1.0"
    assert sae.index.sequence_set.sequences == 40


async def test_labelled_features_are_counted_once_without_drafts(engine: AsyncEngine, session: AsyncSession) -> None:
    made = await make_sae(engine)
    for feature, author, status in ((0, "ada", "submitted"), (0, "kay", "submitted"), (1, "ada", "draft")):
        await add_label(session, made.sae, feature, "something", author=author, status=status)
    sae = await get_sae(session, made.sae.slug)
    assert sae
    assert sae.labelled == 1


async def test_saes_are_listed_newest_first(engine: AsyncEngine, session: AsyncSession) -> None:
    assert await list_saes(session) == []
    await make_sae(engine, slug="first")
    await make_sae(engine, slug="second", publish=False)
    saes = await list_saes(session)
    assert [(sae.slug, sae.index is not None) for sae in saes] == [("second", False), ("first", True)]


@pytest.mark.parametrize("slug", ["nothing", "", "nul\0", "half \ud800"])
async def test_an_unknown_sae_is_none(session: AsyncSession, slug: str) -> None:
    assert await get_sae(session, slug) is None


async def test_registering_again_updates_the_sae_and_keeps_id_and_index(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    made = await make_sae(engine)

    async def register(weights: str) -> dict[str, object]:
        sae = await register_sae(
            session,
            SaeRow(
                slug=made.sae.slug,
                model_id=made.sae.model.id,
                hook=made.sae.hook,
                architecture="batchtopk",
                d_in=16,
                d_sae=24,
                k=4,
                artifact="elsewhere",
                weights_sha256=weights,
                config={},
                metrics={"l0": 4.0, "kl": math.inf},
                created_by="ada",
            ),
        )
        assert (sae.id, sae.artifact, sae.index) == (made.sae.id, "elsewhere", made.sae.index)
        return dict(sae.metrics)

    metrics = await register(made.sae.weights_sha256)
    assert metrics == {**made.sae.metrics, "l0": 4.0, "kl": None}
    with pytest.raises(Conflict, match="other weights"):
        await register("2" * 64)


async def test_new_metrics_are_merged_with_the_old_ones(engine: AsyncEngine, session: AsyncSession) -> None:
    made = await make_sae(engine, publish=False)
    await set_metrics(session, made.sae.id, {"l0": 5.0, "kl": 0.1})
    sae = await get_sae(session, made.sae.slug)
    assert sae
    assert sae.metrics == {**made.sae.metrics, "l0": 5.0, "kl": 0.1}


async def test_density_histogram_counts_all_features(engine: AsyncEngine) -> None:
    made = await make_sae(engine, features=80)
    densities = [row.density for row in made.features.rows()]
    assert made.sae.index
    histogram = made.sae.index.densities
    assert histogram.dead == densities.count(0.0)
    assert sum(histogram.counts) == len(densities) - histogram.dead
    assert len(histogram.edges) == len(histogram.counts) + 1
    assert histogram.edges[0] == pytest.approx(-math.log10(made.features.tokens))
    for low, high, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        inside = sum(density > 0 and low + 1e-9 < math.log10(density) < high - 1e-9 for density in densities)
        assert inside <= count


async def test_smallest_and_largest_density_fall_into_a_bin(engine: AsyncEngine, session: AsyncSession) -> None:
    made = await make_sae(engine)
    assert made.sae.index
    rows = [
        FeatureStatisticsRow(**vars(row) | {"density": 1 / made.features.tokens if row.number else 1.0})
        for row in made.features.rows()
    ]
    await publish_index(
        engine,
        sae_id=made.sae.id,
        sequence_set_id=made.sae.index.sequence_set.id,
        tokens=made.features.tokens,
        topics=made.features.topic_names,
        provenance={"extremes": True},
        features=rows,
        examples=[],
    )
    sae = await get_sae(session, made.sae.slug)
    assert sae
    assert sae.index
    counts = sae.index.densities.counts
    assert (counts[0], counts[-1], sum(counts)) == (23, 1, 24)


async def test_health_flags_are_counted_over_all_features(engine: AsyncEngine) -> None:
    made = await make_sae(engine)
    flags = [flag for row in made.features.rows() for flag in row.health]
    assert made.sae.index
    assert made.sae.index.health == {flag: flags.count(flag) for flag in set(flags)}
    assert {"dead", "dense"} <= made.sae.index.health.keys()
