"""Corrections of misspelt searches."""

from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import create_sessionmaker
from app.queries import spelling
from app.queries.feature_list import FeatureFilter, list_features, pages
from app.queries.publish import FeatureStatisticsRow
from app.queries.saes import get_sae
from app.queries.spelling import corrected
from tests.factories import Synthetic, add_label, publish_features
from tests.synthetic import make_features

pytestmark = pytest.mark.read_only


def having(made: Synthetic, token: bytes) -> set[int]:
    """Features with this token among their top tokens."""

    def has(row: FeatureStatisticsRow) -> bool:
        return made.corpus.vocabulary.index(token) in row.top_token_ids

    return {row.number for row in made.features.rows() if has(row)}


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("rythm", "rhythm"),  # a letter left out
        ("rhytthm", "rhythm"),  # one too many
        ("RHYHTM", "rhythm"),  # two swapped
        ("rivver", "river"),
        ("coart", "court"),  # "coast" is as near, but fewer features have it
        ("rhythm rivver", "rhythm river"),
        ("“rythm”, quickly", "“rhythm”, quickly"),  # nothing is near to the other word
        ("rhythm", None),
        ("rhy", None),
        ("zzzzzz", None),
        ("xq", None),
        ("1x2", None),
        ("rivvvver", None),  # three too many
        ("(", None),
        ("", None),
        ("rythm a b c d e f g h", None),
        ("rhythm symphony", None),  # both are found, if not together
    ],
)
async def test_an_unknown_word_is_corrected_to_the_nearest_known_one(
    session: AsyncSession, made: Synthetic, query: str, meant: str | None
) -> None:
    assert await corrected(session, made.sae, query) == meant


@pytest.mark.own_database
async def test_words_of_submitted_labels_are_preferred(session: AsyncSession, made: Synthetic) -> None:
    assert await corrected(session, made.sae, "orbix") == "orbit"
    await add_label(session, made.sae, 2, "Orbix-like objects; see foo.com", status="draft")
    sae = await get_sae(session, made.sae.slug)
    assert sae
    assert await corrected(session, sae, "orbix") == "orbit"
    await add_label(session, made.sae, 3, "The harbouring of orbis-es")
    sae = await get_sae(session, made.sae.slug)
    assert sae
    assert await corrected(session, sae, "orbix") == "orbis"
    assert await corrected(session, sae, "harbouing") == "harbouring"


@pytest.mark.own_database
async def test_a_word_that_only_the_filters_exclude_is_not_corrected(session: AsyncSession, made: Synthetic) -> None:
    await add_label(session, made.sae, 4, "naming of ships")
    page = await list_features(session, made.sae, FeatureFilter(q="named", health="dead"))
    assert (page.total, page.corrected) == (0, None)  # it is found by its stem, though no label spells it so


async def test_later_pages_and_downloads_use_the_corrected_word(
    engine: AsyncEngine, session: AsyncSession, made: Synthetic
) -> None:
    expected = having(made, b" followed")
    assert len(expected) > 2
    filter = FeatureFilter(q="folowwed", limit=2)
    first = await list_features(session, made.sae, filter)
    assert (first.corrected, first.total) == ("followed", len(expected))
    second = await list_features(session, made.sae, replace(filter, cursor=first.next_cursor))
    assert (second.corrected, second.total) == ("followed", len(expected))
    await session.commit()
    read = [page async for page in pages(create_sessionmaker(engine), made.sae, filter, first)]
    assert [row.index for row in read[1].rows] == [row.index for row in second.rows]
    numbers = [row.index for page in read for row in page.rows]
    assert (len(numbers), set(numbers)) == (len(expected), expected)


@pytest.mark.own_database
async def test_words_are_read_once_per_index(
    engine: AsyncEngine, session: AsyncSession, made: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[object] = []
    read = spelling._column

    async def counted(session: AsyncSession, query: object, parameters: dict[str, int]) -> tuple[str, ...]:
        queries.append(query)
        return await read(session, query, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(spelling, "_column", counted)
    for query in ("rythm", "rivver", "zzzzzz", "rhythm"):
        await corrected(session, made.sae, query)
    assert queries == [spelling._OF_TOKENS, spelling._OF_LABELS]

    await add_label(session, made.sae, 3, "melodic")
    await session.commit()
    labelled = await get_sae(session, made.sae.slug)
    assert labelled
    assert labelled.index
    await corrected(session, labelled, "rythm")
    assert queries[2:] == [spelling._OF_LABELS]

    await session.commit()
    await publish_features(engine, made.sae, labelled.index.sequence_set.id, make_features(made.corpus, n=24, seed=1))
    indexed = await get_sae(session, made.sae.slug)
    assert indexed
    await corrected(session, indexed, "rythm")
    assert queries[3:] == [spelling._OF_TOKENS, spelling._OF_LABELS]
