"""Deletion of rows: what goes, what stays, who forbids it, and what readers see meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.artifacts import Artifacts
from app.db import transaction
from app.errors import Conflict, NotFound, Unavailable, UserError
from app.queries import deletions as queries
from app.queries import runs
from app.queries.comparisons import publish_comparison
from app.queries.features import get_feature
from app.queries.labels import LabelText, list_labels
from app.queries.models import register_without_weights
from app.queries.saes import SaeDetail, SaeRow, get_sae, register_sae
from app.services.actors import Actor
from app.services.comments import add_comment
from app.services.deletion import Deletion, InUse, Kind, corpus_name, delete, describe
from app.services.labels import save_label
from app.services.lists import ListText, NewItem, add_item, create_list, find_list
from app.services.saes import find_sae
from app.services.saved_probes import save_probe
from app.tables import SaeClaim
from tests.comparing import compare
from tests.factories import Synthetic, add_label, add_run, make_sae

Sessions = async_sessionmaker[AsyncSession]
Write = Callable[[AsyncSession, SaeDetail, str], Awaitable[None]]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


async def erase(sessions: Sessions, kind: Kind, name: str, artifacts: Artifacts) -> Deletion:
    async with transaction(sessions) as session:
        return await delete(session, kind, name, artifacts)


async def rows(session: AsyncSession, *, of: int) -> dict[str, int]:
    """The number of rows per table that name an SAE."""
    columns = {
        "label": "sae_id",
        "saved_list_item": "sae_id",
        "saved_probe": "sae_id",
        "feature_index": "sae_id",
        "sae": "id",
    }
    counts = {
        table: await session.scalar(text(f"SELECT count(*) FROM {table} WHERE {column} = {of}"))
        for table, column in columns.items()
    }
    matches = f"SELECT count(*) FROM feature_match JOIN comparison ON id = comparison_id WHERE {of} IN (a_id, b_id)"
    counts["feature_match"] = await session.scalar(text(matches))
    for table in ("feature", "example_band"):
        own = f"SELECT count(*) FROM {table} JOIN feature_index i ON i.id = index_id WHERE i.sae_id = {of}"
        counts[table] = await session.scalar(text(own))
    return {table: number or 0 for table, number in counts.items()}


async def partitions(session: AsyncSession) -> set[str]:
    names = "SELECT relname FROM pg_class WHERE relname ~ '^(feature|example_band)_[0-9]+$'"
    return set(await session.scalars(text(names)))


async def test_an_sae_goes_with_all_that_belongs_to_it_and_nothing_else(
    engine: AsyncEngine, sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic
) -> None:
    other = await make_sae(engine, slug="other", features=12, seed=0)
    await compare(engine, made, other)
    async with transaction(sessionmaker) as session:
        await add_label(session, made.sae, 1, "music")
        await add_label(session, made.sae, 1, "strings", author="grace")
        await add_label(session, made.sae, 2, "a draft", status="draft")
        await add_label(session, other.sae, 1, "kept")
        items = [NewItem(made.sae.slug, 3), NewItem(other.sae.slug, 4)]
        kept = await create_list(session, ListText("Both"), items, actor=Actor("ada"))
        await add_comment(session, made.sae, 1, actor=Actor("ada"), text="why?")
        run = await add_run(session, made.sae)
        for sae in (made.sae, other.sae):
            await save_probe(session, sae, "A probe", [("text", "Some words")], actor=Actor("ada"))
    async with sessionmaker() as session:
        before, others = await rows(session, of=made.sae.id), await rows(session, of=other.sae.id)
        assert all(before.values())

    gone = await erase(sessionmaker, "sae", made.sae.slug, artifacts)

    said = "; ".join(gone.goes)
    for words in (
        "24 features",
        "3 labels by 2 people",
        "1 label set",
        "1 comment",
        "1 entry of 1 list",
        "1 saved probe, with the links to them",
        "1 comparison, with other",
    ):
        assert words in said
    assert gone.table_bytes > 0
    async with sessionmaker() as session:
        assert await get_sae(session, made.sae.slug) is None
        assert not any((await rows(session, of=made.sae.id)).values())
        assert await rows(session, of=other.sae.id) == {**others, "feature_match": 0}
        index = other.sae.index
        assert index is not None
        assert await partitions(session) == {f"feature_{index.id}", f"example_band_{index.id}"}
        assert (await find_list(session, kept.public_id)).version == kept.version + 1
        after = await runs.get_run(session, run.id)
        assert after is not None
        assert (after.state, after.sae_slug) == ("done", None)
        assert set(await queries.left_folders(session)) == set(gone.folders)
        assert f"saes/{made.sae.slug}" in gone.folders


async def test_an_index_goes_and_the_labels_stay(sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic) -> None:
    async with transaction(sessionmaker) as session:
        await add_label(session, made.sae, 1, "music")
    gone = await erase(sessionmaker, "index", made.sae.slug, artifacts)
    assert all(folder.startswith("indexes/") for folder in gone.folders)
    async with sessionmaker() as session:
        sae = await get_sae(session, made.sae.slug)
        assert sae is not None
        assert (sae.index, sae.labelled) == (None, 1)
        assert not await partitions(session)
    with pytest.raises(NotFound, match="has no index"):
        await erase(sessionmaker, "index", made.sae.slug, artifacts)


async def test_model_and_corpus_are_refused_while_used_and_go_afterwards(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic
) -> None:
    assert made.sae.index is not None
    corpus = corpus_name(made.sae.index.sequence_set.corpus)
    with pytest.raises(InUse, match=f"{made.sae.slug} is one. Delete the SAE first"):
        await erase(sessionmaker, "model", "tiny", artifacts)
    with pytest.raises(InUse, match=f"{made.sae.slug} is indexed on it. Delete the SAE first, or its index"):
        await erase(sessionmaker, "corpus", corpus, artifacts)
    gone = await erase(sessionmaker, "sae", made.sae.slug, artifacts)
    assert gone.freed == (("model", "tiny"), ("corpus", corpus))
    await erase(sessionmaker, "corpus", corpus, artifacts)
    await erase(sessionmaker, "model", "tiny", artifacts)
    async with sessionmaker() as session:
        for table in ("language_model", "token", "corpus", "sequence_set", "sequence", "document"):
            assert await session.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table


@pytest.mark.parametrize("how", ["about", "params", "list", "use", "claim"])
async def test_what_a_run_under_way_uses_is_refused_with_its_name(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic, how: str
) -> None:
    slug = made.sae.slug
    params = {"params": {"a": "x", "b": slug}, "list": {"saes": ["x", slug]}}.get(how, {})
    async with transaction(sessionmaker) as session:
        run = await runs.create_run(
            session, kind="compare", title="Compare", params=params, stages=[], created_by="ada"
        )
        await runs.set_job(session, run.id, 1)
        if how == "about":
            await runs.set_sae(session, run.id, made.sae.id)
        if how == "use":
            await runs.note_use(session, run.id, f"sae {made.sae.id}")
        if how == "claim":
            session.add(SaeClaim(slug=slug, key="k", run_id=run.id))
    for kind in ("sae", "index"):
        with pytest.raises(InUse, match=rf"run {run.id} \(Compare\) is queued"):
            await erase(sessionmaker, kind, slug, artifacts)  # type: ignore[arg-type]
    async with transaction(sessionmaker) as session:
        await runs.cancel_run(session, run.id)
    await erase(sessionmaker, "sae", slug, artifacts)


async def test_the_model_and_the_corpus_of_a_run_under_way_are_refused(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic
) -> None:
    assert made.sae.index is not None
    corpus = made.sae.index.sequence_set.corpus
    await erase(sessionmaker, "sae", made.sae.slug, artifacts)
    async with transaction(sessionmaker) as session:
        run = await runs.create_run(session, kind="train", title="Train", params={}, stages=[], created_by="ada")
        await runs.set_job(session, run.id, 1)
        await runs.note_use(session, run.id, f"model {made.sae.model.id}", f"corpus {corpus.id}")
    with pytest.raises(InUse, match="Train"):
        await erase(sessionmaker, "model", "tiny", artifacts)
    with pytest.raises(InUse, match="Train"):
        await erase(sessionmaker, "corpus", corpus_name(corpus), artifacts)


async def test_the_run_of_a_killed_command_forbids_nothing(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic
) -> None:
    async with transaction(sessionmaker) as session:
        run = await runs.create_run(session, kind="train", title="Train", params={}, stages=[], created_by="ada")
        await runs.start_run(session, run.id)
        await runs.set_sae(session, run.id, made.sae.id)
    await erase(sessionmaker, "sae", made.sae.slug, artifacts)


async def test_deleting_twice_at_once_deletes_once(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic
) -> None:
    results = await asyncio.gather(
        *(erase(sessionmaker, "sae", made.sae.slug, artifacts) for _ in range(3)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Deletion", "NotFound", "NotFound"]


async def test_a_reader_has_the_whole_sae_until_it_ends(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic
) -> None:
    async with transaction(sessionmaker) as session:
        await add_label(session, made.sae, 1, "music")
    async with sessionmaker() as reader, sessionmaker() as observer:
        sae = await get_sae(reader, made.sae.slug)
        assert sae is not None
        deleting = asyncio.create_task(erase(sessionmaker, "sae", made.sae.slug, artifacts))
        waiting = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        async with asyncio.timeout(10):
            while not await observer.scalar(text(waiting)):
                assert not deleting.done()
                await observer.rollback()
        assert await get_feature(reader, sae, 1) is not None
        assert await list_labels(reader, sae.id, 1)
        await reader.rollback()
        await observer.rollback()
        await deleting
    async with sessionmaker() as session:
        assert await get_sae(session, made.sae.slug) is None


async def write_to_list(session: AsyncSession, sae: SaeDetail, address: str) -> None:
    await add_item(session, address, NewItem(sae.slug, 1), actor=Actor("ada"))


async def write_label(session: AsyncSession, sae: SaeDetail, _address: str) -> None:
    found = await find_sae(session, sae.slug)
    await save_label(session, found, 1, actor=Actor("ada"), text=LabelText("music"), expected_version=None)


async def write_comparison(session: AsyncSession, sae: SaeDetail, _address: str) -> None:
    other = await get_sae(session, "other")
    await session.rollback()  # a run reads the SAEs long before it publishes
    assert other is not None
    facts: dict[str, Any] = {"provenance": {}, "summary": {}, "rows": [[], []], "sequence_set_id": None, "tokens": 0}
    await publish_comparison(session, a=sae, b=other, **facts)


@pytest.mark.parametrize("write", [write_to_list, write_label, write_comparison])
async def test_what_is_written_to_an_sae_that_is_being_deleted_is_refused(
    engine: AsyncEngine, sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic, write: Write
) -> None:
    await make_sae(engine, slug="other")
    async with transaction(sessionmaker) as session:
        address = (await create_list(session, ListText("Music"), actor=Actor("ada"))).public_id

    async def write_and_commit() -> None:
        async with transaction(sessionmaker) as session:
            await write(session, made.sae, address)

    async with sessionmaker() as observer, transaction(sessionmaker) as deleting:
        await delete(deleting, "sae", made.sae.slug, artifacts)
        writing = asyncio.create_task(write_and_commit())
        async with asyncio.timeout(10):
            while not await observer.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                assert not writing.done()
                await observer.rollback()
    with pytest.raises(UserError, match=made.sae.slug):
        await writing


@pytest.mark.parametrize("write", [write_to_list, write_label, write_comparison])
async def test_a_deletion_waits_for_what_is_being_written(
    engine: AsyncEngine, sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic, write: Write
) -> None:
    await make_sae(engine, slug="other")
    async with transaction(sessionmaker) as session:
        address = (await create_list(session, ListText("Music"), actor=Actor("ada"))).public_id
    async with sessionmaker() as observer, transaction(sessionmaker) as writing:
        await write(writing, made.sae, address)
        deleting = asyncio.create_task(erase(sessionmaker, "sae", made.sae.slug, artifacts))
        waiting = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        async with asyncio.timeout(10):
            while not await observer.scalar(text(waiting)):
                assert not deleting.done()
                await observer.rollback()
    assert (await deleting).goes[1:]  # what was written goes with it


async def test_a_reader_that_does_not_end_is_not_cut_off(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "READERS_TIMEOUT", 0.0)
    async with sessionmaker() as reader:
        await get_sae(reader, made.sae.slug)
        with pytest.raises(Unavailable, match="Nothing was deleted"):
            await erase(sessionmaker, "sae", made.sae.slug, artifacts)
        await reader.rollback()
        assert await get_sae(reader, made.sae.slug) is not None


async def test_labels_that_were_written_since_it_was_asked_are_not_lost(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic
) -> None:
    async with sessionmaker() as session:
        asked = await describe(session, "sae", made.sae.slug, artifacts)
    async with transaction(sessionmaker) as session:
        await add_label(session, made.sae, 1, "music")
    with pytest.raises(Conflict, match="were written since"):
        async with transaction(sessionmaker) as session:
            await delete(session, "sae", made.sae.slug, artifacts, label_changes=asked.label_changes)


async def test_an_sae_without_weights_names_no_folder(sessionmaker: Sessions, artifacts: Artifacts) -> None:
    async with transaction(sessionmaker) as session:
        model, _ = await register_without_weights(
            session, name="x (no weights)", source="exports", n_layers=0, d_model=0, tokens=[b"a"]
        )
        row = SaeRow(
            slug="x",
            model_id=model.id,
            hook="",
            architecture="",
            d_in=0,
            d_sae=4,
            k=None,
            artifact="",
            weights_sha256="none, of export 1",
            config={},
            metrics={},
            created_by="ada",
        )
        await register_sae(session, row)
    gone = await erase(sessionmaker, "sae", "x", artifacts)
    assert gone.folders == ()
    assert "without weights" in gone.goes[0]
    assert (await erase(sessionmaker, "model", "x (no weights)", artifacts)).folders == ()


@pytest.mark.parametrize("name", ["", "nul\0", "../saes", "a" * 10_000, "'; DROP TABLE sae; --", "%", "\ud800", "x:2"])
@pytest.mark.parametrize("kind", ["sae", "index", "model", "corpus"])
async def test_names_that_nothing_has_are_refused(
    sessionmaker: Sessions, artifacts: Artifacts, made: Synthetic, kind: Kind, name: str
) -> None:
    with pytest.raises(NotFound, match=r"There (is|are)"):
        await erase(sessionmaker, kind, name, artifacts)
    async with sessionmaker() as session:
        assert (await session.scalars(select(text("slug")).select_from(text("sae")))).all() == [made.sae.slug]


@pytest.mark.parametrize("folder", ["", "saes", "saes/", "saes/..", "saes/a/b", "../x", "/etc", "other/x", "saes/\0"])
def test_only_products_are_folders(artifacts: Artifacts, folder: str) -> None:
    assert artifacts.folder(folder) is None
