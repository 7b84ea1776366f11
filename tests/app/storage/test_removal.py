"""What is removed from disk: what is stated, to the byte, and nothing else."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.artifacts import Artifacts, size_of
from app.db import transaction
from app.errors import Unprocessable
from app.queries import deletions, runs
from app.queries.saes import SaeDetail
from app.services.deletion import delete
from app.storage import removal
from app.tables import SaeClaim
from sae_core.files import unshared_name
from sae_core.locks import folder_lock
from tests.app.inference.dictionaries import SLUG, Dictionary, make_dictionary, publish

Sessions = async_sessionmaker[AsyncSession]
KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Dictionary:
    return make_dictionary(tmp_path_factory.mktemp("template"))


@pytest.fixture
async def sae(template: Dictionary, engine: AsyncEngine) -> SaeDetail:
    """An SAE with weights, and an index with its activations."""
    return await publish(engine, template, with_store=True)


@pytest.fixture
def artifacts(template: Dictionary, sae: SaeDetail, tmp_path: Path) -> Artifacts:
    """Its files, in a folder that the test may change."""
    shutil.copytree(template.settings.artifacts, tmp_path / "artifacts", ignore=lambda *_: ["locks"])
    return Artifacts(tmp_path / "artifacts")


def fill(folder: Path, size: int = 1000) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "shard").write_bytes(b"x" * size)
    (folder / "manifest.json").write_text("{}")
    return folder


def files(root: Path) -> dict[str, int]:
    """Every file and its size, but locks."""
    found = (path for path in root.rglob("*") if not path.is_dir() and path.parent != root / "locks")
    return {str(path.relative_to(root)): path.lstat().st_size for path in found}


async def collect(sessions: Sessions, artifacts: Artifacts) -> removal.Removed:
    garbage, _ = await removal.unneeded(sessions, artifacts)
    return await removal.remove(sessions, garbage, holder="seesae gc")


async def under_way(sessions: Sessions, *subjects: str) -> int:
    """A run under way that uses these."""
    async with transaction(sessions) as session:
        run = await runs.create_run(session, kind="index", title="Index", params={}, stages=[], created_by="ada")
        await runs.set_job(session, run.id, 1)
        await runs.note_use(session, run.id, *subjects)
    return run.id


async def test_gc_frees_what_it_states_and_nothing_else(
    artifacts: Artifacts, sessionmaker: Sessions, tmp_path: Path
) -> None:
    kept = files(artifacts.root)
    kept_bytes = size_of(artifacts.root)
    stranger = artifacts.activations("mine")
    stranger.mkdir(parents=True)
    (stranger / "notes.txt").write_text("not yours")
    (artifacts.root / "README").write_text("mine too")
    (artifacts.root / "sequences").mkdir()
    (artifacts.root / "sequences" / KEY).symlink_to(tmp_path)
    fill(artifacts.sae("of-another-database"))
    fill(artifacts.root / "tensorboard" / "tiny")
    untouched = files(artifacts.root)
    garbage = {
        fill(artifacts.activations(KEY), 5000),
        fill(artifacts.index(KEY), 4000),
        fill(artifacts.training(KEY), 3000),
        fill(artifacts.models / f"gguf-{KEY[:16]}", 2000),
        fill(unshared_name(artifacts.sae("half"), "partial"), 100),
        fill(artifacts.root / ".import-77-abc", 50),
    }
    before = files(artifacts.root)

    listed, unknown = await removal.unneeded(sessionmaker, artifacts)
    assert files(artifacts.root) == before  # listing changes nothing
    assert {item.path for item in listed} == garbage
    assert {item.path.name for item in unknown} == {"mine", "README", KEY, "of-another-database"}
    removed = await removal.remove(sessionmaker, listed, holder="seesae gc")

    after = files(artifacts.root)
    assert after == untouched
    assert not removed.skipped
    assert removed.size == sum(item.size for item in listed) == sum(before.values()) - sum(after.values())
    assert kept.items() <= after.items()
    assert kept_bytes == sum(kept.values())


async def test_a_deleted_sae_leaves_what_gc_finds_if_the_process_is_killed_before_its_files_go(
    artifacts: Artifacts, sessionmaker: Sessions, sae: SaeDetail
) -> None:
    before = files(artifacts.root)
    async with transaction(sessionmaker) as session:
        gone = await delete(session, "sae", sae.slug, artifacts)
    stated = artifacts.bytes_of(gone.folders)
    assert files(artifacts.root) == before  # killed here

    garbage, unknown = await removal.unneeded(sessionmaker, artifacts)
    assert ({f"{item.category}/{item.path.name}" for item in garbage}, unknown) == (set(gone.folders), [])
    removed = await removal.remove_deleted(sessionmaker, artifacts)
    assert removed.size == stated == sum(before.values())
    assert files(artifacts.root) == {}
    async with sessionmaker() as session:
        assert await deletions.left_folders(session) == []


async def test_a_kill_while_a_folder_is_removed_leaves_what_gc_finds(
    artifacts: Artifacts, sessionmaker: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(artifacts.activations(KEY))

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            await collect(sessionmaker, artifacts)
    assert not artifacts.activations(KEY).exists()
    [item] = (await removal.unneeded(sessionmaker, artifacts))[0]
    assert item.category == "leftovers"
    assert (await collect(sessionmaker, artifacts)).size == item.size
    assert not list((artifacts.root / "activations").iterdir())


async def test_the_rest_of_a_deleted_folder_whose_removal_was_killed_goes_with_the_next_removal(
    artifacts: Artifacts, sessionmaker: Sessions, sae: SaeDetail
) -> None:
    async with transaction(sessionmaker) as session:
        await delete(session, "sae", sae.slug, artifacts)
    folder = artifacts.sae(SLUG)
    folder.rename(unshared_name(folder, "partial"))  # killed here
    with folder_lock(folder, "run 7"):
        half = fill(unshared_name(folder, "partial"))  # of the run, which makes it again
        await removal.remove_deleted(sessionmaker, artifacts)
        assert half.exists()
        async with sessionmaker() as session:
            assert await deletions.left_folders(session) == [f"saes/{SLUG}"]
    await removal.remove_deleted(sessionmaker, artifacts)
    assert files(artifacts.root) == {}
    async with sessionmaker() as session:
        assert await deletions.left_folders(session) == []


async def test_what_a_run_under_way_uses_stays(artifacts: Artifacts, sessionmaker: Sessions) -> None:
    used = [fill(artifacts.activations(KEY)), fill(artifacts.training(KEY)), fill(artifacts.index(KEY))]
    model = fill(artifacts.models / f"gguf-{KEY[:16]}")
    run = await under_way(sessionmaker, *(f"{path.parent.name}/{path.name}" for path in used))
    spool = fill(artifacts.root / f".import-{run}-abc")
    assert (await removal.unneeded(sessionmaker, artifacts))[0] == []
    async with transaction(sessionmaker) as session:
        await runs.cancel_run(session, run)
    garbage, _ = await removal.unneeded(sessionmaker, artifacts)
    assert {item.path for item in garbage} == {*used, model, spool}
    assert f"run {run} did not end well" in next(item.reason for item in garbage if item.path == used[1])


async def test_a_run_that_begins_after_the_listing_keeps_its_inputs(
    artifacts: Artifacts, sessionmaker: Sessions
) -> None:
    fill(artifacts.activations(KEY))
    garbage, _ = await removal.unneeded(sessionmaker, artifacts)
    run = await under_way(sessionmaker, f"activations/{KEY}")
    removed = await removal.remove(sessionmaker, garbage, holder="seesae gc")
    assert ([why for _, why in removed.skipped], removed.items) == ([f"run {run} uses it"], ())
    assert artifacts.activations(KEY).exists()


async def test_a_folder_that_another_process_holds_is_skipped_and_named(
    artifacts: Artifacts, sessionmaker: Sessions
) -> None:
    held, free = fill(artifacts.activations(KEY)), fill(artifacts.activations(KEY[::-1]))
    half = fill(unshared_name(held, "partial"))
    with folder_lock(held, "run 7"):
        half.mkdir(exist_ok=True)
        fill(half / "again")
        removed = await collect(sessionmaker, artifacts)
    assert {(item.path, why) for item, why in removed.skipped} == {
        (held, "run 7 holds its lock"),
        (half, "run 7 holds its lock"),
    }
    assert [item.path for item in removed.items] == [free]
    assert held.exists()
    assert half.exists()


async def test_an_sae_that_is_made_again_keeps_its_new_files(
    artifacts: Artifacts, sessionmaker: Sessions, engine: AsyncEngine, template: Dictionary, sae: SaeDetail
) -> None:
    async with transaction(sessionmaker) as session:
        await delete(session, "sae", sae.slug, artifacts)
        run = await runs.create_run(session, kind="train", title="Train", params={}, stages=[], created_by="ada")
        await runs.set_job(session, run.id, 1)
        session.add(SaeClaim(slug=SLUG, key="k", run_id=run.id))
    await removal.remove_deleted(sessionmaker, artifacts)
    assert artifacts.sae(SLUG).exists()  # a run makes it, and has not registered it yet
    await publish(engine, template)
    async with transaction(sessionmaker) as session:
        await runs.cancel_run(session, run.id)
    await removal.remove_deleted(sessionmaker, artifacts)
    assert artifacts.sae(SLUG).exists()
    async with sessionmaker() as session:
        assert await deletions.left_folders(session) == []


# --- the limit of the activation caches ----------------------------------------------------------------------------


@pytest.fixture
def caches(artifacts: Artifacts) -> Iterator[list[Path]]:
    """Four caches of about 1,000 bytes each, in the order of their last use."""
    made = []
    for number in range(4):
        cache = fill(artifacts.activations(f"{number}" * 20))
        removal.touch(cache)
        os.utime(cache / removal.USED, (1e9 + number, 1e9 + number))
        made.append(cache)
    yield made


async def test_caches_that_were_used_least_recently_are_evicted(
    artifacts: Artifacts, sessionmaker: Sessions, caches: list[Path]
) -> None:
    new = artifacts.activations(KEY)
    assert not (await removal.make_room(sessionmaker, artifacts, [new], 1000, None)).items
    assert not (await removal.make_room(sessionmaker, artifacts, [new], 1000, 1e-5)).items
    removal.touch(caches[0])
    removed = await removal.make_room(sessionmaker, artifacts, [new], 1000, 3.2e-6)
    assert [item.path for item in removed.items] == [caches[1], caches[2]]
    assert caches[0].exists()
    assert caches[3].exists()
    assert (artifacts.root / "saes" / SLUG).exists()


async def test_inputs_of_runs_under_way_are_not_evicted(
    artifacts: Artifacts, sessionmaker: Sessions, caches: list[Path]
) -> None:
    await under_way(sessionmaker, f"activations/{caches[0].name}")
    with folder_lock(caches[1], "run 7"):
        removed = await removal.make_room(sessionmaker, artifacts, [artifacts.activations(KEY)], 1000, 1.1e-6)
    assert [item.path for item in removed.items] == caches[2:]
    assert [item.path for item, _ in removed.skipped] == [caches[1]]


async def test_a_cache_larger_than_the_limit_is_refused_unless_it_is_there(
    artifacts: Artifacts, sessionmaker: Sessions, caches: list[Path]
) -> None:
    with pytest.raises(Unprocessable, match="SEESAE_CACHE_LIMIT"):
        await removal.make_room(sessionmaker, artifacts, [artifacts.activations(KEY)], 10_000, 5e-6)
    await removal.make_room(sessionmaker, artifacts, [caches[0]], 1000, 5e-7)
    assert all(cache.exists() for cache in caches)
