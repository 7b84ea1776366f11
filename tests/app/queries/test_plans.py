"""No query of a page reads a large table from end to end: Postgres plans each by an index, by its own choice."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.bench import synthetic
from app.bench.scratch_database import Plan, fill, slug
from app.db import create_sessionmaker
from app.queries.activity import acts_after, latest_activity
from app.queries.comparisons import (
    Listing,
    comparisons_tag,
    counterparts_everywhere,
    get_comparison,
    get_counterparts,
    get_parts,
    list_comparisons,
    list_counterparts,
)
from app.queries.examples import best_examples, get_examples, top_examples
from app.queries.feature_holdings import feature_holdings
from app.queries.feature_list import FeatureFilter, feature_rows, filter_by_density, list_features
from app.queries.features import feature_histograms, get_feature
from app.queries.labels import find_label, label_histories, label_summaries, list_labels
from app.queries.lists import find_item, get_list, list_items, list_lists, lists_of_feature
from app.queries.runs import get_run, list_active, list_runs, metrics
from app.queries.saes import SaeDetail, get_sae, list_saes
from app.queries.spelling import corrected
from app.queries.sql.visibility import Reader
from app.queries.suggestions import list_suggestions, suggested_texts

pytestmark = pytest.mark.read_only

READER = Reader(person_id=1)
SMALL = {"sae", "feature_index", "language_model", "corpus", "sequence_set", "comparison"}
"""Tables of a row an SAE, or less: reading them whole is the quickest."""

RUNS = """
    INSERT INTO run (kind, title, state, params, stages, created_by)
    SELECT 'train', 'Train', 'done', '{}', '[]', 'bench' FROM generate_series(1, 3000)
"""
METRICS = """
    INSERT INTO run_metric SELECT run, step, '{"loss": 1}'
    FROM generate_series(1, 100) run, generate_series(1, 100) step
"""
COMPARISONS = """
    INSERT INTO comparison (a_id, b_id, tokens, provenance, summary)
    SELECT a.id, b.id, 200000, '{}', '{"a": {}, "b": {}}' FROM sae a JOIN sae b ON a.id < b.id
"""
MATCHES = """
    INSERT INTO feature_match
    SELECT comparison.id, side, feature, feature % 700, feature, random(), random(), 9, feature % 3 = 0,
        feature, random(), random(), 9, feature % 4 = 0,
        CASE WHEN feature % 5 = 0 THEN feature / 9 END, random(), random(), 9, feature % 4, 5
    FROM comparison, generate_series(0, 1) side, generate_series(0, 2047) feature
"""
LISTS_KEPT = """
    INSERT INTO saved_list (public_id, name, description, author, owner_id, updated_at)
    SELECT 'list ' || number, 'A list', '', 'bench', (SELECT id FROM person), now() - number * interval '1 minute'
    FROM generate_series(1, 10000) number
"""
ITEMS = """
    INSERT INTO saved_list_item SELECT list, sae.id, (7 * list + number) % 2048, number, '', 1
    FROM generate_series(1, 10000) list, generate_series(1, 6) number, sae WHERE sae.id % 4 = list % 4
"""
SUGGESTIONS = """
    INSERT INTO suggestion (sae_id, feature, key, source, model, prompt, text)
    SELECT sae.id, number / 3, number, 'model', number % 3, '', 'A suggestion'
    FROM generate_series(0, 6143) number, sae
"""
ACTS = """
    INSERT INTO activity (person_id, act, sae_id, label_set_id, feature)
    SELECT (SELECT min(id) FROM person), 'comment added', sae.id,
        (SELECT min(id) FROM label_set WHERE label_set.sae_id = sae.id),
        CASE WHEN number % 10 > 0 THEN number % 2048 END
    FROM sae, generate_series(1, 20000) number
"""
KNOWN = ("activity", "suggestion", "run", "run_metric", "saved_list", "saved_list_item")


@pytest.fixture(scope="module")
async def sae(module_engine: AsyncEngine) -> SaeDetail:
    """One of four SAEs, many of whose features are labelled; their tables know how they are spread."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic, "LABELLED", 0.6)
        await fill(module_engine, Plan(saes=4, features=2048), notify=lambda line: None)
    async with module_engine.begin() as connection:
        for statement in (
            RUNS,
            METRICS,
            LISTS_KEPT,
            ITEMS,
            SUGGESTIONS,
            ACTS,
            *(f"ANALYZE {table}" for table in KNOWN),
        ):
            await connection.execute(text(statement))
    async with create_sessionmaker(module_engine)() as session:
        found = await get_sae(session, slug(1))
    assert found
    return found


@pytest.fixture(scope="module")
async def compared(module_engine: AsyncEngine, sae: SaeDetail) -> None:
    """Comparisons of all SAEs with each other."""
    async with module_engine.begin() as connection:
        for statement in (COMPARISONS, MATCHES, "ANALYZE comparison", "ANALYZE feature_match"):
            await connection.execute(text(statement))


@pytest.fixture
async def plans(engine: AsyncEngine, session: AsyncSession) -> AsyncIterator[Callable[[Awaitable[Any]], Any]]:
    """A function that returns the plan of each statement of a query."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        statements.append((statement, parameters))

    async def plans_of(query: Awaitable[Any]) -> list[Any]:
        statements.clear()
        event.listen(engine.sync_engine, "before_cursor_execute", note)
        await query
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        connection = await session.connection()
        found = []
        for statement, parameters in statements:
            plan = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()
            found.append(plan if isinstance(plan, list) else json.loads(plan))
        return found

    yield plans_of


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    for each in plan if isinstance(plan, list) else [plan.get("Plan", plan)]:
        if "Plan" in each:
            yield from nodes(each)
        else:
            yield each
            yield from nodes(each.get("Plans", []))


def read_whole(plan: Any) -> set[str]:
    """Large tables that a plan reads from end to end."""
    return {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"} - SMALL


LISTS = [
    FeatureFilter(sort=sort, descending=descending, label=label, **bounds)
    for sort, descending, label, bounds in product(
        ("coherence", "density", "max", "mean", "index"),
        (True, False),
        (None, "labelled", "unlabelled"),
        ({}, {"min_density": 1e-4}, {"min_density": 1e-5, "max_density": 1e-3}, {"max_density": 0.0}),
    )
]
WORD = synthetic.vocabulary()[60].decode().strip()
NARROWED = [
    FeatureFilter(sort=sort, **narrowed)
    for sort, narrowed in product(
        ("coherence", "density", "index"),
        (
            {"health": "dead"},
            {"health": "single_token", "label": "labelled"},
            {"token": WORD},
            {"promotes": WORD},
            {"topic": synthetic.TOPICS[0]},
            {"author": "bench"},
            {"category": "nothing"},
        ),
    )
]
SEARCHES = [
    FeatureFilter(sort=sort, q=q, label=label)
    for sort, q, label in product(
        (None, "density", "index"),
        ("bader", "ba", "tokens about", "badder", "->", "(", "zzzz"),
        (None, "labelled", "unlabelled"),
    )
]


async def test_feature_lists_and_searches_use_an_index(session: AsyncSession, sae: SaeDetail, plans: Any) -> None:
    await corrected(session, sae, "zzzz")  # the words that can be found are read from end to end, once an index
    for filter in (*LISTS, *NARROWED, *SEARCHES):
        for plan in await plans(list_features(session, sae, filter)):
            assert not read_whole(plan), (filter, json.dumps(plan, indent=1))


@pytest.mark.parametrize("descending", [True, False])
async def test_a_deep_page_by_coherence_starts_at_its_place(
    session: AsyncSession, sae: SaeDetail, plans: Any, descending: bool
) -> None:
    """Postgres seeks the cursor's place in the index, whose columns are all that it reads, and sorts nothing."""
    filter = FeatureFilter(sort="coherence", descending=descending, limit=100)
    for _ in range(12):
        page = await list_features(session, sae, filter, with_examples=False)
        filter = replace(filter, cursor=page.next_cursor)
    (plan,) = [plan for plan in await plans(list_features(session, sae, filter)) if "coalesce" in json.dumps(plan)]
    (found,) = [node for node in nodes(plan) if "coherence" in node.get("Index Name", "")]
    assert found["Node Type"] == "Index Only Scan", json.dumps(plan, indent=1)
    assert "(ROW((COALESCE(coherence" in found["Index Cond"]
    assert "Filter" not in found


async def test_later_pages_use_an_index(session: AsyncSession, sae: SaeDetail, plans: Any) -> None:
    for filter in (*LISTS, *SEARCHES):
        page = await list_features(session, sae, filter)
        if page.next_cursor is not None:
            following = replace(filter, cursor=page.next_cursor)
            for plan in await plans(list_features(session, sae, following)):
                assert not read_whole(plan), (following, json.dumps(plan, indent=1))


async def test_all_other_queries_of_pages_use_an_index(session: AsyncSession, sae: SaeDetail, plans: Any) -> None:
    (label, *_) = await list_labels(session, sae.id, next(iter(await label_summaries(session, sae.id, range(99)))))
    for query in (
        get_sae(session, sae.slug),
        list_saes(session),
        get_feature(session, sae, 7),
        get_examples(session, sae, 7),
        get_examples(session, sae, 7, band=3),
        best_examples(session, sae, range(10, 60)),
        top_examples(session, sae, range(10, 60), 3),
        feature_rows(session, sae, range(10, 60)),
        filter_by_density(session, sae, range(10, 600), None, 0.01),
        feature_histograms(session, sae, range(100, 400, 3)),
        feature_rows(session, sae, range(100, 120), with_examples=False),
        list_labels(session, sae.id, 7),
        label_summaries(session, sae.id, range(50)),
        find_label(session, label.label_set_id, 7, label.person_id),
        label_histories(session, [label]),
        list_suggestions(session, sae.id, 7),
        suggested_texts(session, sae.id, range(50)),
        list_runs(session, limit=20),
        list_active(session),
        get_run(session, 7),
        metrics(session, 7),
        list_lists(session, limit=50),
        list_lists(session, limit=50, before=1_000),
        get_list(session, "list 7"),
        list_items(session, 7, after=3, limit=100),
        find_item(session, 7, sae.slug, 3),
        lists_of_feature(session, sae.id, 3),
        lists_of_feature(session, sae.id, 300),
    ):
        for plan in await plans(query):
            assert not read_whole(plan), (query, json.dumps(plan, indent=1))


async def test_of_acts_only_those_on_the_feature_and_on_whole_sets_are_looked_for(
    session: AsyncSession, sae: SaeDetail, plans: Any
) -> None:
    for query in (
        feature_holdings(session, sae.id, 7),
        latest_activity(session, sae.id, 7, reader=READER),
        acts_after(session, 0, sae.id, 7, reader=READER),
    ):
        (plan,) = await plans(query)
        found = [node for node in nodes(plan) if node.get("Relation Name") == "activity"]
        assert {node.get("Index Name") for node in found} == {"ix_activity_of_sae_feature"}, json.dumps(plan, indent=1)
        assert all("feature" in node["Index Cond"] for node in found)


@pytest.mark.usefixtures("compared")
async def test_comparison_queries_use_an_index(session: AsyncSession, sae: SaeDetail, plans: Any) -> None:
    others = [other for other in await list_saes(session) if other.id != sae.id]
    comparison = await get_comparison(session, sae, others[0])
    assert comparison
    views = await list_comparisons(session, sae)
    assert len(views) == len(others) == 3
    queries: list[Callable[[], Awaitable[Any]]] = [
        lambda: comparisons_tag(session, sae.id),
        lambda: get_counterparts(session, comparison, range(30)),
        lambda: get_parts(session, comparison, 20),
        lambda: counterparts_everywhere(session, views, 7),
    ]
    for listing in get_args(Listing):
        first = await list_counterparts(session, comparison, listing)
        for cursor in (None, first.next_cursor):
            queries.append(
                lambda listing=listing, cursor=cursor: list_counterparts(session, comparison, listing, cursor=cursor)
            )
    for query in queries:
        for plan in await plans(query()):
            assert not read_whole(plan), json.dumps(plan, indent=1)
