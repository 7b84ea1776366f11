from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries.examples import best_examples, get_examples, get_excerpts, neighbour_examples, top_examples
from app.queries.features import get_feature
from tests.factories import Synthetic

pytestmark = pytest.mark.read_only


async def test_examples_hold_whole_sequences_with_their_activations(session: AsyncSession, made: Synthetic) -> None:
    for feature in (0, 6, 10, 22):
        expected = [row for row in made.features.examples() if row.feature == feature]
        examples = await get_examples(session, made.sae, feature)
        assert [(e.band, e.rank, e.sequence, e.position) for e in examples] == [
            (row.band, row.rank, row.sequence, row.position) for row in expected
        ]
        for example in examples:
            ids = made.corpus.token_ids[example.sequence]
            assert example.start == 0
            assert [token.id for token in example.tokens] == ids.tolist()
            assert [token.bytes for token in example.tokens] == [made.corpus.vocabulary[i] for i in ids]
            truth = made.features.activations[feature, example.sequence]
            assert [token.activation for token in example.tokens] == pytest.approx(truth.tolist())
            assert example.activation == pytest.approx(truth[example.position])
            assert example.tokens[0].special


async def test_an_example_names_the_document_of_its_token(session: AsyncSession, made: Synthetic) -> None:
    examples = await get_examples(session, made.sae, 22)
    assert len({example.document for example in examples}) > 5
    for example in examples:
        number = int(made.corpus.document_of[example.sequence, example.position])
        assert example.document
        assert (example.document.number, example.document.title, example.document.topic) == (
            number,
            made.corpus.titles[number],
            made.corpus.topics[number],
        )


async def test_examples_are_filtered_by_band_and_limit(session: AsyncSession, made: Synthetic) -> None:
    assert {example.band for example in await get_examples(session, made.sae, 0, band=5)} == {5}
    limited = await get_examples(session, made.sae, 0, limit=2)
    assert [(example.band, example.rank) for example in limited] == [(b, r) for b in range(6) for r in range(2)]
    for band, limit in ((6, 1), (-1, 1), (0, 0), (0, 101)):
        with pytest.raises(Unprocessable):
            await get_examples(session, made.sae, 0, band=band, limit=limit)


async def test_dead_and_unknown_features_have_no_examples(session: AsyncSession, made: Synthetic) -> None:
    assert await get_examples(session, made.sae, 23) == []
    assert await get_examples(session, made.sae, 2**40) == []


async def test_best_examples_are_windows_around_the_strongest_token(session: AsyncSession, made: Synthetic) -> None:
    windows = await best_examples(session, made.sae, [*range(24)], before=3, after=2)
    assert windows.keys() == {*range(23)}
    for feature, example in windows.items():
        assert (example.band, example.rank) == (0, 0)
        first = max(0, example.position - 3)
        span = slice(first, example.position + 3)
        assert example.start == first
        assert [token.id for token in example.tokens] == made.corpus.token_ids[example.sequence, span].tolist()
        truth = made.features.activations[feature]
        assert example.tokens[example.position - first].activation == pytest.approx(truth.max())


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 2), (1_000, 1_000)])
async def test_excerpts_are_windows_of_all_examples(
    session: AsyncSession, made: Synthetic, before: int, after: int
) -> None:
    for feature in (0, 6, 10, 22, 23, 2**20):
        excerpts = await get_excerpts(session, made.sae, feature, before=before, after=after)
        whole = await get_examples(session, made.sae, feature, with_documents=False)
        assert len(excerpts) == len(whole)
        for excerpt, view in zip(excerpts, whole, strict=True):
            first = max(0, view.position - before)
            assert list(excerpt.tokens) == view.tokens[first : view.position + after + 1]
            assert replace(excerpt, tokens=view.tokens) == replace(view, start=first)


async def test_neighbours_have_counts_and_an_example_if_asked_for(session: AsyncSession, made: Synthetic) -> None:
    wanted, with_example = [22, 0, 23, 6], [0, 23, 6]
    counts, views = await neighbour_examples(session, made.sae, wanted, with_example, before=3, after=2)
    details = [await get_feature(session, made.sae, number) for number in wanted]
    assert counts == {detail.index: detail.histogram.counts for detail in details if detail}
    best = await best_examples(session, made.sae, with_example, before=3, after=2)
    assert views.keys() == best.keys() == {0, 6}
    for feature, view in views.items():
        assert replace(view, tokens=list(view.tokens)) == replace(best[feature], tokens=list(best[feature].tokens))
    assert await neighbour_examples(session, made.sae, [], []) == ({}, {})


async def test_top_examples_of_many_features_equal_those_of_each(session: AsyncSession, made: Synthetic) -> None:
    found = await top_examples(session, made.sae, [*range(24)], 3)
    assert found.keys() == {*range(23)}
    for feature, views in found.items():
        alone = await get_examples(session, made.sae, feature, band=0, limit=3, with_documents=False)
        assert [replace(view, tokens=list(view.tokens)) for view in views] == [
            replace(view, tokens=list(view.tokens)) for view in alone
        ]
    assert await top_examples(session, made.sae, [], 3) == {}
