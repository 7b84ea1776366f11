import math
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.errors import Unprocessable
from app.queries.features import FeatureFilter, feature_histograms, get_feature, list_features
from app.queries.saes import SaeDetail
from tests.factories import Synthetic, add_label, make_sae


@pytest.fixture
async def made(engine: AsyncEngine) -> Synthetic:
    return await make_sae(engine)


async def all_pages(session: AsyncSession, sae: SaeDetail, filter: FeatureFilter) -> list[int]:
    numbers: list[int] = []
    while True:
        page = await list_features(session, sae, filter)
        numbers += [row.index for row in page.rows]
        if page.next_cursor is None:
            assert page.total == len(numbers)
            return numbers
        assert len(page.rows) == filter.limit
        filter = replace(filter, cursor=page.next_cursor)


@pytest.mark.parametrize("sort", ["density", "max", "index"])
@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("limit", [5, 24])
async def test_pages_hold_every_feature_once_in_order(
    session: AsyncSession, made: Synthetic, sort: str, descending: bool, limit: int
) -> None:
    numbers = await all_pages(session, made.sae, FeatureFilter(sort=sort, descending=descending, limit=limit))
    keys = {
        row.number: (getattr(row, "number" if sort == "index" else sort), row.number) for row in made.features.rows()
    }
    assert numbers == sorted(keys, key=keys.__getitem__, reverse=descending)


async def test_ties_are_paged_over(engine: AsyncEngine, session: AsyncSession) -> None:
    """With one sequence many features are dead, and all dead ones have the same density."""
    made = await make_sae(engine, features=60, sequences=1)
    assert sum(row.count == 0 for row in made.features.rows()) > 10
    numbers = await all_pages(session, made.sae, FeatureFilter(limit=3))
    assert sorted(numbers) == list(range(60))


async def test_a_row_says_what_the_feature_is(session: AsyncSession, made: Synthetic) -> None:
    await add_label(session, made.sae, 0, "music", author="ada")
    await add_label(session, made.sae, 0, "instruments", author="grace")
    await add_label(session, made.sae, 0, "not yet", author="kay", status="draft")
    page = await list_features(session, made.sae, FeatureFilter(sort="index", descending=False))
    row, truth = page.rows[0], made.features.rows()[0]
    assert (row.count, row.density) == (truth.count, truth.density)
    assert row.max == pytest.approx(truth.max)
    assert list(row.histogram) == truth.histogram
    assert [token.bytes for token in row.top_tokens] == [made.corpus.vocabulary[i] for i in truth.top_token_ids]
    assert row.label
    assert (row.label.count, row.label.explanation, row.label.author) == (2, "instruments", "grace")
    example = row.example
    assert example
    assert example.tokens[example.position - example.start].activation == pytest.approx(truth.max)
    assert page.rows[-1].health == ("dead",)
    assert page.rows[-1].example is None


async def test_densities_bound_the_list(session: AsyncSession, made: Synthetic) -> None:
    low, high = 0.02, 0.08
    numbers = await all_pages(session, made.sae, FeatureFilter(min_density=low, max_density=high, limit=4))
    assert set(numbers) == {row.number for row in made.features.rows() if low <= row.density <= high}
    assert numbers


async def test_labels_filter_the_list(session: AsyncSession, made: Synthetic) -> None:
    await add_label(session, made.sae, 3, "law")
    await add_label(session, made.sae, 5, "physics")
    await add_label(session, made.sae, 7, "unsure", status="draft")
    assert set(await all_pages(session, made.sae, FeatureFilter(label="labelled"))) == {3, 5}
    assert set(await all_pages(session, made.sae, FeatureFilter(label="unlabelled", limit=10))) == {*range(24)} - {3, 5}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("rhythm", lambda tokens: b" rhythm" in tokens),
        ("rhy", lambda tokens: b" rhythm" in tokens),
        ("RHYTHM", lambda tokens: b" rhythm" in tokens),
        ("<script>", lambda tokens: b"<script>alert(1)</script>" in tokens),
        ("\n", lambda tokens: True),
        (".", lambda tokens: b"." in tokens),
        ("rhythm & !:* | (", lambda tokens: b" rhythm" in tokens),
        ("nothing like it", lambda tokens: False),
    ],
)
async def test_top_tokens_are_searched(session: AsyncSession, made: Synthetic, query: str, expected: object) -> None:
    numbers = await all_pages(session, made.sae, FeatureFilter(q=query))
    assert set(numbers) == {
        row.number
        for row in made.features.rows()
        if expected({made.corpus.vocabulary[token] for token in row.top_token_ids})  # type: ignore[operator]
    }


async def test_labels_are_searched_by_word_stem_and_category(session: AsyncSession, made: Synthetic) -> None:
    await add_label(session, made.sae, 4, "Naming conventions of ships", categories=("Maritime",))
    await add_label(session, made.sae, 6, "Naming of drafts", status="draft")
    for query in ("ship", "SHIPS", "named ship", "convent", "maritime"):
        assert await all_pages(session, made.sae, FeatureFilter(q=query)) == [4], query
    assert await all_pages(session, made.sae, FeatureFilter(q="ship", label="unlabelled")) == []


@pytest.mark.parametrize(
    "filter",
    [
        FeatureFilter(sort="colour"),  # type: ignore[arg-type]
        FeatureFilter(label="mine"),  # type: ignore[arg-type]
        FeatureFilter(limit=0),
        FeatureFilter(limit=201),
        FeatureFilter(min_density=math.nan),
        FeatureFilter(max_density=math.inf),
        FeatureFilter(min_density=-0.1),
        FeatureFilter(q="nul\0"),
        FeatureFilter(q="half \ud800"),
        FeatureFilter(q="x" * 201),
        FeatureFilter(cursor="nonsense"),
        FeatureFilter(cursor="é"),
        FeatureFilter(cursor="W10"),  # []
        FeatureFilter(cursor="eyJzb3J0IjoiZGVuc2l0eSIsImRlc2NlbmRpbmciOnRydWUsInZhbHVlIjoxZTk5OSwibnVtYmVyIjowfQ"),
        FeatureFilter(cursor="eyJzb3J0IjoiZGVuc2l0eSIsImRlc2NlbmRpbmciOnRydWUsInZhbHVlIjoieCIsIm51bWJlciI6MH0"),
    ],
)
async def test_what_makes_no_sense_is_refused(session: AsyncSession, made: Synthetic, filter: FeatureFilter) -> None:
    with pytest.raises(Unprocessable):
        await list_features(session, made.sae, filter)


async def test_a_cursor_of_another_order_is_refused(session: AsyncSession, made: Synthetic) -> None:
    page = await list_features(session, made.sae, FeatureFilter(sort="density", limit=2))
    for other in (FeatureFilter(sort="max"), FeatureFilter(sort="density", descending=False)):
        with pytest.raises(Unprocessable, match="another order"):
            await list_features(session, made.sae, replace(other, cursor=page.next_cursor))


async def test_a_feature_says_everything(session: AsyncSession, made: Synthetic) -> None:
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


async def test_there_is_no_other_feature(engine: AsyncEngine, session: AsyncSession, made: Synthetic) -> None:
    for number in (-1, 24, 2**40):
        assert await get_feature(session, made.sae, number) is None
    bare = await make_sae(engine, slug="bare", publish=False)
    assert await get_feature(session, bare.sae, 0) is None
    assert (await list_features(session, bare.sae, FeatureFilter())).rows == ()


async def test_histograms_of_many_features(session: AsyncSession, made: Synthetic) -> None:
    rows = made.features.rows()
    found = await feature_histograms(session, made.sae, [2, 5, 99])
    assert {number: histogram.counts for number, histogram in found.items()} == {
        number: tuple(rows[number].histogram) for number in (2, 5)
    }
