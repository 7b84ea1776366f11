import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.feature_list import FeatureFilter, list_features
from app.queries.features import feature_histograms, get_feature
from tests.factories import Synthetic, add_label, make_sae

pytestmark = pytest.mark.read_only


@pytest.mark.own_database
async def test_a_feature_has_all_its_statistics(session: AsyncSession, made: Synthetic) -> None:
    await add_label(session, made.sae, 1, "itself")
    truth = made.features.rows()[1]
    neighbour = truth.coactive[0]
    await add_label(session, made.sae, neighbour, "a neighbour")
    feature = await get_feature(session, made.sae, 1)
    assert feature
    assert (feature.index, feature.tokens, feature.count) == (1, made.features.tokens, truth.count)
    assert feature.histogram.counts == tuple(truth.histogram)
    assert len(feature.histogram.edges) == 51
    assert feature.histogram.edges[-1] == pytest.approx(truth.max)
    assert feature.band_edges == pytest.approx(truth.band_edges)
    assert [(t.id, t.count) for t in feature.top_tokens] == list(
        zip(truth.top_token_ids, truth.top_token_counts, strict=True)
    )
    assert [token.bytes for token in feature.promoted] == [made.corpus.vocabulary[i] for i in truth.promoted_ids]
    assert [token.logit for token in feature.suppressed] == pytest.approx(truth.suppressed_logits, rel=1e-6)
    assert [(c.index, c.joint) for c in feature.coactive] == list(
        zip(truth.coactive, truth.coactive_joint, strict=True)
    )
    assert feature.coactive[0].label
    assert feature.coactive[0].label.explanation == "a neighbour"
    assert [near.index for near in feature.near] == truth.near
    assert [(t.topic, t.count) for t in feature.topics] == [
        (made.features.topic_names[topic], count) for topic, count in zip(truth.topics, truth.topic_counts, strict=True)
    ]
    assert [label.explanation for label in feature.labels] == ["itself"]


@pytest.mark.own_database
async def test_an_unknown_feature_is_none(engine: AsyncEngine, session: AsyncSession, made: Synthetic) -> None:
    for number in (-1, 24, 2**40):
        assert await get_feature(session, made.sae, number) is None
    bare = await make_sae(engine, slug="bare", publish=False)
    assert await get_feature(session, bare.sae, 0) is None
    assert (await list_features(session, bare.sae, FeatureFilter())).rows == ()


async def test_histograms_of_many_features_equal_those_of_each(session: AsyncSession, made: Synthetic) -> None:
    rows = made.features.rows()
    found = await feature_histograms(session, made.sae, [2, 5, 99])
    assert {number: histogram.counts for number, histogram in found.items()} == {
        number: tuple(rows[number].histogram) for number in (2, 5)
    }
