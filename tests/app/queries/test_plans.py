"""No query of a page reads a large table from end to end: Postgres plans each by an index, by its own choice."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import product
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.bench import synthetic
from app.bench.web import Plan, fill, slug
from app.queries.examples import best_examples, get_examples
from app.queries.feature_list import FeatureFilter, list_features
from app.queries.features import feature_histograms, get_feature
from app.queries.labels import find_label, label_history, label_summaries, list_labels
from app.queries.lists import find_item, get_list, list_items, list_lists, lists_of_feature
from app.queries.runs import get_run, list_runs, metrics
from app.queries.saes import SaeDetail, get_sae, list_saes

SMALL = {"sae", "feature_index", "language_model", "corpus", "sequence_set"}
"""Tables of a row an SAE, or less: reading them whole is the quickest."""

RUNS = """
    INSERT INTO run (kind, title, state, params, stages, created_by)
    SELECT 'train', 'Train', 'done', '{}', '[]', 'bench' FROM generate_series(1, 3000)
"""
METRICS = """
    INSERT INTO run_metric SELECT run, step, '{"loss": 1}'
    FROM generate_series(1, 100) run, generate_series(1, 100) step
"""
LISTS_KEPT = """
    INSERT INTO saved_list (public_id, name, description, author, updated_at)
    SELECT 'list ' || number, 'A list', '', 'bench', now() - number * interval '1 minute'
    FROM generate_series(1, 3000) number
"""
ITEMS = """
    INSERT INTO saved_list_item SELECT list, sae.id, (7 * list + number) % 2048, number, '', 1
    FROM generate_series(1, 3000) list, generate_series(1, 20) number, sae WHERE sae.id % 4 = list % 4
"""
KNOWN = ("run", "run_metric", "saved_list", "saved_list_item")


@pytest.fixture
async def sae(engine: AsyncEngine, session: AsyncSession, monkeypatch: pytest.MonkeyPatch) -> SaeDetail:
    """One of four SAEs, many of whose features are labelled; their tables know how they are spread."""
    monkeypatch.setattr(synthetic, "LABELLED", 0.6)
    await fill(engine, Plan(saes=4, features=2048), say=lambda line: None)
    async with engine.begin() as connection:
        for statement in (RUNS, METRICS, LISTS_KEPT, ITEMS, *(f"ANALYZE {table}" for table in KNOWN)):
            await connection.execute(text(statement))
    found = await get_sae(session, slug(1))
    assert found
    return found


@pytest.fixture
async def plans(engine: AsyncEngine, session: AsyncSession) -> AsyncIterator[Callable[[Awaitable[Any]], Any]]:
    """What Postgres plans for each statement of a query."""
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
        ("density", "max", "mean", "index"),
        (True, False),
        (None, "labelled", "unlabelled"),
        ({}, {"min_density": 1e-4}, {"min_density": 1e-5, "max_density": 1e-3}, {"max_density": 0.0}),
    )
]
WORD = synthetic.vocabulary()[60].decode().strip()
NARROWED = [
    FeatureFilter(sort=sort, **narrowed)
    for sort, narrowed in product(
        ("density", "index"),
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
        ("density", "index"), ("bader", "ba", "tokens about", "->", "(", "zzzz"), (None, "labelled", "unlabelled")
    )
]


async def test_lists_and_searches_go_by_an_index(session: AsyncSession, sae: SaeDetail, plans: Any) -> None:
    for filter in (*LISTS, *NARROWED, *SEARCHES):
        for plan in await plans(list_features(session, sae, filter)):
            assert not read_whole(plan), (filter, json.dumps(plan, indent=1))


async def test_later_pages_go_by_an_index(session: AsyncSession, sae: SaeDetail, plans: Any) -> None:
    for filter in LISTS:
        page = await list_features(session, sae, filter)
        if page.next_cursor is not None:
            following = FeatureFilter(
                **{
                    name: getattr(filter, name)
                    for name in ("sort", "descending", "label", "min_density", "max_density")
                },
                cursor=page.next_cursor,
            )
            for plan in await plans(list_features(session, sae, following)):
                assert not read_whole(plan), (following, json.dumps(plan, indent=1))


async def test_everything_else_a_page_asks_goes_by_an_index(session: AsyncSession, sae: SaeDetail, plans: Any) -> None:
    (label, *_) = await list_labels(session, sae.id, next(iter(await label_summaries(session, sae.id, range(99)))))
    for query in (
        get_sae(session, sae.slug),
        list_saes(session),
        get_feature(session, sae, 7),
        get_examples(session, sae, 7),
        get_examples(session, sae, 7, band=3),
        best_examples(session, sae, range(10, 60)),
        feature_histograms(session, sae, range(100, 400, 3)),
        list_labels(session, sae.id, 7),
        label_summaries(session, sae.id, range(50)),
        find_label(session, sae.id, 7, "ada", "default"),
        label_history(session, label.id),
        list_runs(session, limit=20),
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
