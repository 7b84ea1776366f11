"""The list of features: what is in it, in which order, on which page."""

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import create_sessionmaker
from app.errors import Unavailable, Unprocessable
from app.queries.feature_list import FeatureFilter, list_features, pages
from app.queries.publish import FeatureStatisticsRow
from app.queries.saes import SaeDetail
from tests.factories import Synthetic, add_label, make_sae, publish_features
from tests.synthetic import make_features

pytestmark = pytest.mark.read_only


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


@pytest.mark.parametrize("sort", ["density", "max", "mean", "index"])
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


COHERENCE = [None if number % 5 == 0 else round(math.sin(number) * 4, 1) for number in range(24)]
"""By feature: some unknown, some below 0, some equal."""


@pytest.mark.own_database
@pytest.mark.parametrize("limit", [1, 4, 5, 24])
async def test_features_without_coherence_come_last(engine: AsyncEngine, session: AsyncSession, limit: int) -> None:
    sae = (await make_sae(engine, slug="coherent", coherence=COHERENCE)).sae
    keys = {number: (-1000 if value is None else value, number) for number, value in enumerate(COHERENCE)}
    expected = sorted(keys, key=keys.__getitem__, reverse=True)
    assert {COHERENCE[number] for number in expected[-5:]} == {None}
    assert await all_pages(session, sae, FeatureFilter(sort="coherence", limit=limit)) == expected
    assert await all_pages(session, sae, FeatureFilter(limit=limit)) == expected
    backwards = FeatureFilter(sort="coherence", descending=False, limit=limit)
    assert await all_pages(session, sae, backwards) == expected[::-1]
    rows = (await list_features(session, sae, FeatureFilter())).rows
    assert [row.coherence for row in rows] == [pytest.approx(COHERENCE[row.index]) for row in rows]


@pytest.mark.own_database
async def test_the_default_order_needs_a_coherence(engine: AsyncEngine, session: AsyncSession) -> None:
    """An index from before, or one of features with few examples, lists the most active features first."""
    for slug, coherence in (("before", None), ("few-examples", [None] * 24)):
        sae = (await make_sae(engine, slug=slug, coherence=coherence)).sae
        assert sae.index and sae.index.coherent == 0
        by_density = await all_pages(session, sae, FeatureFilter(sort="density"))
        assert await all_pages(session, sae, FeatureFilter(limit=7)) == by_density
        assert sorted(await all_pages(session, sae, FeatureFilter(sort="coherence", limit=7))) == list(range(24))
    one = (await make_sae(engine, slug="one", coherence=[None] * 23 + [0.5])).sae
    assert one.index and one.index.coherent == 1
    assert (await all_pages(session, one, FeatureFilter()))[0] == 23


@pytest.mark.own_database
async def test_paging_continues_across_ties(engine: AsyncEngine, session: AsyncSession) -> None:
    """With one sequence many features are dead, and all dead ones have the same density."""
    made = await make_sae(engine, features=60, sequences=1)
    assert sum(row.count == 0 for row in made.features.rows()) > 10
    numbers = await all_pages(session, made.sae, FeatureFilter(limit=3))
    assert sorted(numbers) == list(range(60))


@pytest.mark.own_database
async def test_a_row_summarises_its_feature(session: AsyncSession, made: Synthetic) -> None:
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


async def test_density_bounds_filter_the_list(session: AsyncSession, made: Synthetic) -> None:
    low, high = 0.02, 0.08
    numbers = await all_pages(session, made.sae, FeatureFilter(min_density=low, max_density=high, limit=4))
    assert set(numbers) == {row.number for row in made.features.rows() if low <= row.density <= high}
    assert numbers


@pytest.mark.own_database
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
        ("<script>", lambda tokens: b" sprint" in tokens),  # no feature has "script", and this is spelled nearest
        ("\n", lambda tokens: True),
        (".", lambda tokens: b"." in tokens),
        ("rhythm & !:* | (", lambda tokens: b" rhythm" in tokens),
        ("nothing like it", lambda tokens: False),
    ],
)
async def test_search_finds_top_tokens(session: AsyncSession, made: Synthetic, query: str, expected: object) -> None:
    numbers = await all_pages(session, made.sae, FeatureFilter(q=query))
    assert set(numbers) == {
        row.number
        for row in made.features.rows()
        if expected({made.corpus.vocabulary[token] for token in row.top_token_ids})  # type: ignore[operator]
    }


@pytest.mark.own_database
async def test_search_finds_labels_by_word_stem_and_category(session: AsyncSession, made: Synthetic) -> None:
    await add_label(session, made.sae, 4, "Naming conventions of ships", categories=("Maritime",))
    await add_label(session, made.sae, 6, "Naming of drafts", status="draft")
    for query in ("ship", "SHIPS", "named ship", "convent", "maritime"):
        assert await all_pages(session, made.sae, FeatureFilter(q=query)) == [4], query
    assert await all_pages(session, made.sae, FeatureFilter(q="ship", label="unlabelled")) == []
    for query in ("-whales", "whales or ship", '"ship naming"'):  # no operators: their words must all be there
        found = await all_pages(session, made.sae, FeatureFilter(q=query))
        assert found == ([4] if "naming" in query else []), query


MUSIC = [  # feature, author, explanation, categories, status
    (2, "ada", "music of all kinds", (), "submitted"),
    (2, "kay", "Music", (), "submitted"),
    (3, "ada", "Musical, that is of music", (), "submitted"),
    (5, "ada", "strings", ("Music",), "submitted"),
    (7, "ada", "music", (), "draft"),
    (9, "ada", "rhythm and music", (), "submitted"),
    (11, "ada", "rhythms", (), "submitted"),
]
PLURALS = {"rhythms": "rhythm"}
"""The stems of the words above, which are all that Postgres' own do to them in these searches."""


def match_score(made: Synthetic, row: FeatureStatisticsRow, query: str) -> float | None:
    """How well a feature matches, the plain way; None if it does not."""
    wanted = query.lower().split()

    def has_all(words: list[str]) -> bool:
        return all(any(word.startswith(term) or PLURALS.get(word) == term for word in words) for term in wanted)

    ranks = []
    for feature, _, explanation, categories, status in MUSIC:
        words = explanation.lower().replace(",", "").split()
        if (feature, status) == (row.number, "submitted") and has_all(words):
            ranks.append(min(1.0, len(wanted) / len(words)))
        elif (feature, status) == (row.number, "submitted") and query.lower() in map(str.lower, categories):
            ranks.append(0.0)
    if ranks:
        return 2.0 + max(ranks)
    tokens = [made.corpus.vocabulary[token].decode(errors="ignore").strip().lower() for token in row.top_token_ids]
    if not has_all(tokens):
        return None
    shares = zip(tokens, np.float32(row.top_token_shares).tolist(), strict=True)
    return float(sum(share for token, share in shares if token.startswith(tuple(wanted))))


@pytest.mark.own_database
async def test_a_search_lists_the_best_match_first_on_every_page(session: AsyncSession, made: Synthetic) -> None:
    for feature, author, explanation, categories, status in MUSIC:
        await add_label(session, made.sae, feature, explanation, author=author, categories=categories, status=status)
    for query in ("music", "rhythm", "rhy", "the", "violin", "o", "music rhythm", "r", "."):
        scores = {row.number: match_score(made, row, query) for row in made.features.rows()}
        keys = {number: (score, number) for number, score in scores.items() if score is not None}
        assert keys, query
        for descending, limit in ((True, 3), (True, 50), (False, 3)):
            filter = FeatureFilter(q=query, descending=descending, limit=limit)
            expected = sorted(keys, key=keys.__getitem__, reverse=descending)
            assert await all_pages(session, made.sae, filter) == expected, query


@pytest.mark.own_database
async def test_a_row_says_why_a_search_found_it(session: AsyncSession, made: Synthetic) -> None:
    for feature, author, explanation, categories, status in MUSIC:
        await add_label(session, made.sae, feature, explanation, author=author, categories=categories, status=status)
    rows = {row.index: row for row in (await list_features(session, made.sae, FeatureFilter(q="rhythm"))).rows}
    for number, row in rows.items():
        assert row.match
        tokens = [token for token in row.top_tokens if token.bytes == b" rhythm"]
        assert list(row.match.tokens) == tokens
        assert row.match.share == sum(token.share for token in tokens)
        assert bool(tokens) or number in (9, 11)
    assert rows[9].match
    assert (rows[9].match.label, rows[9].match.words) == ("rhythm and music", {"rhythm"})
    assert rows[11].match
    assert (rows[11].match.label, rows[11].match.words) == ("rhythms", {"rhythms"})
    rows = {row.index: row for row in (await list_features(session, made.sae, FeatureFilter(q="music"))).rows}
    assert rows[2].match
    assert (rows[2].match.label, rows[2].match.words) == ("Music", {"music"})  # the better of its two labels
    assert rows[5].match
    assert (rows[5].match.label, rows[5].match.words) == ("strings", frozenset())  # by its category
    everything = await list_features(session, made.sae, FeatureFilter())
    assert all(row.match is None for row in everything.rows)


@pytest.mark.parametrize(
    "filter",
    [
        FeatureFilter(sort="match"),
        FeatureFilter(sort="colour"),  # type: ignore[arg-type]
        FeatureFilter(label="mine"),  # type: ignore[arg-type]
        FeatureFilter(limit=0),
        FeatureFilter(limit=201),
        FeatureFilter(min_density=math.nan),
        FeatureFilter(max_density=math.inf),
        FeatureFilter(min_density=-0.1),
        FeatureFilter(min_density=0.2, max_density=0.1),
        FeatureFilter(min_max=3.0, max_max=2.0),
        FeatureFilter(min_max=-1.0),
        FeatureFilter(health="ill"),  # type: ignore[arg-type]
        FeatureFilter(topic="Astrology"),
        FeatureFilter(label="unlabelled", author="ada"),
        FeatureFilter(label="unlabelled", category="law"),
        FeatureFilter(token="nul\0"),
        FeatureFilter(author="half \ud800"),
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
async def test_invalid_filters_are_refused(session: AsyncSession, made: Synthetic, filter: FeatureFilter) -> None:
    with pytest.raises(Unprocessable):
        await list_features(session, made.sae, filter)


async def test_a_cursor_of_another_order_is_refused(session: AsyncSession, made: Synthetic) -> None:
    page = await list_features(session, made.sae, FeatureFilter(sort="density", limit=2))
    for other in (
        FeatureFilter(sort="max"),
        FeatureFilter(sort="density", descending=False),
        FeatureFilter(q="rhythm"),
    ):
        with pytest.raises(Unprocessable, match="another order"):
            await list_features(session, made.sae, replace(other, cursor=page.next_cursor))


LABELS = [  # feature, author, category, status
    (0, "ada", "law", "submitted"),
    (3, "ada", "music", "submitted"),
    (3, "kay", "law", "submitted"),
    (5, "kay", "music", "draft"),
    (9, "kay", "sport", "submitted"),
]


def passes(made: Synthetic, row: FeatureStatisticsRow, filter: FeatureFilter) -> bool:
    """True if a feature meets every condition."""

    def spelled(tokens: list[int], text: str) -> bool:
        return bool({made.corpus.vocabulary[token] for token in tokens} & {text.encode(), f" {text}".encode()})

    labels = [
        (author, category)
        for feature, author, category, status in LABELS
        if (feature, status) == (row.number, "submitted")
    ]
    named = [label for label in labels if filter.author in ("", label[0]) and filter.category in ("", label[1])]
    wants_label = filter.label == "labelled" or filter.author or filter.category
    return (
        (filter.min_density is None or row.density >= filter.min_density)
        and (filter.max_density is None or row.density <= filter.max_density)
        and (filter.min_max is None or row.max >= filter.min_max)
        and (filter.max_max is None or row.max <= filter.max_max)
        and (filter.health is None or filter.health in row.health)
        and (not filter.token or spelled(row.top_token_ids, filter.token))
        and (not filter.promotes or spelled(row.promoted_ids, filter.promotes))
        and (not filter.topic or made.features.topic_names.index(filter.topic) in row.topics)
        and (not wants_label or bool(named))
        and (filter.label != "unlabelled" or not labels)
    )


def some_filter(made: Synthetic, drawn: random.Random) -> FeatureFilter:
    """Any filter that does not contradict itself, most of it left open."""
    rows = made.features.rows()

    def bounds(values: list[float]) -> tuple[float | None, float | None]:
        low, high = sorted(drawn.choices(values, k=2))
        return (low if drawn.random() < 0.3 else None, high if drawn.random() < 0.3 else None)

    def token(tokens: list[int]) -> str:
        return made.corpus.vocabulary[drawn.choice(tokens)].decode(errors="ignore") if tokens else "none"

    min_density, max_density = bounds([row.density for row in rows])
    min_max, max_max = bounds([float(row.max) for row in rows])
    row = drawn.choice(rows)
    values: dict[str, Any] = {
        "health": drawn.choice(["dead", "dense", "duplicate", "single_token"]),
        "token": token(row.top_token_ids).strip() or ".",
        "promotes": token(row.promoted_ids),
        "topic": drawn.choice(made.features.topic_names),
        "author": drawn.choice(["ada", "kay", "nobody"]),
        "category": drawn.choice(["law", "music", "Law"]),
    }
    chosen = {name: value for name, value in values.items() if drawn.random() < 0.15}
    label = None if {"author", "category"} & set(chosen) else drawn.choice([None, None, "labelled", "unlabelled"])
    return FeatureFilter(
        sort=drawn.choice(["density", "max", "mean", "index"]),
        descending=drawn.random() < 0.5,
        min_density=min_density,
        max_density=max_density,
        min_max=min_max,
        max_max=max_max,
        label=label,  # type: ignore[arg-type]
        limit=drawn.choice([3, 50]),
        **chosen,
    )


@pytest.mark.slow
@pytest.mark.own_database
async def test_any_filter_agrees_with_a_filter_in_memory(session: AsyncSession, made: Synthetic) -> None:
    for feature, author, category, status in LABELS:
        await add_label(session, made.sae, feature, "a label", author=author, categories=(category,), status=status)
    rows = {row.number: row for row in made.features.rows()}
    drawn = random.Random(0)
    found_some = 0
    for _ in range(200):
        filter = some_filter(made, drawn)
        expected = [number for number, row in rows.items() if passes(made, row, filter)]
        column = "number" if filter.sort == "index" else filter.sort
        expected.sort(key=lambda number: (getattr(rows[number], column), number), reverse=filter.descending)
        assert await all_pages(session, made.sae, filter) == expected, filter
        found_some += 0 < len(expected) < len(rows)
    assert found_some > 60


async def test_search_finds_a_token_with_or_without_its_leading_space(session: AsyncSession, made: Synthetic) -> None:
    having = {
        row.number for row in made.features.rows() if made.corpus.vocabulary.index(b" rhythm") in row.top_token_ids
    }
    assert having
    assert set(await all_pages(session, made.sae, FeatureFilter(token="rhythm"))) == having
    assert set(await all_pages(session, made.sae, FeatureFilter(token=" rhythm"))) == having
    assert await all_pages(session, made.sae, FeatureFilter(token="rhyth")) == []


@pytest.mark.own_database
async def test_pages_of_a_replaced_index_are_refused(
    engine: AsyncEngine, session: AsyncSession, made: Synthetic
) -> None:
    filter = FeatureFilter(limit=10)
    first = await list_features(session, made.sae, filter)
    await session.commit()
    following = pages(create_sessionmaker(engine), made.sae, filter, first)
    assert await anext(following) is first
    assert (await anext(following)).rows[0].index not in {row.index for row in first.rows}
    assert made.sae.index
    await publish_features(engine, made.sae, made.sae.index.sequence_set.id, make_features(made.corpus, n=24, seed=1))
    with pytest.raises(Unavailable, match="replaced"):
        await anext(following)
