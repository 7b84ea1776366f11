"""Locks, removal and sizes of artifacts that machines share by a bucket."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.artifacts import Artifacts
from app.db import transaction
from app.object_store import ObjectStore, StoreAway
from app.queries import deletions, runs
from app.queries.saes import SaeDetail
from app.services.deletion import delete
from app.settings import Settings
from app.storage import mirror, removal
from app.supervision.doctor import Finding, examine
from tests.app.inference.dictionaries import SLUG, Dictionary, make_dictionary, publish
from tests.app.runs.workers import submitter_settings
from tests.app.storage.test_removal import KEY, fill
from tests.bucket import connect

Sessions = async_sessionmaker[AsyncSession]
Machine = Callable[[str], Artifacts]


@pytest.fixture
def machine(tmp_path: Path, bucket: str) -> Machine:
    return lambda name: Artifacts.of(Settings(home=tmp_path / name, artifacts=bucket))


@pytest.fixture
def dictionary(tmp_path: Path) -> Dictionary:
    return make_dictionary(tmp_path / "made")


@pytest.fixture
async def sae(dictionary: Dictionary, engine: AsyncEngine, machine: Machine) -> SaeDetail:
    """An SAE and its index, which the first machine pushed."""
    detail = await publish(engine, dictionary, with_store=True)
    one = machine("one")
    one.root.parent.mkdir(parents=True)
    (dictionary.settings.artifacts_folder).rename(one.root)
    for parent in ("saes", "indexes"):
        for folder in (one.root / parent).iterdir():
            push(one, folder)
    return detail


def push(artifacts: Artifacts, folder: Path) -> None:
    assert artifacts.store is not None
    artifacts.store.push(folder)


def stored(artifacts: Artifacts) -> set[str]:
    assert artifacts.store is not None
    return set(artifacts.store.products())


async def test_gc_removes_what_nothing_needs_from_the_store_also_what_this_machine_never_had(
    machine: Machine, sae: SaeDetail, sessionmaker: Sessions
) -> None:
    one, two = machine("one"), machine("two")
    kept = stored(one)
    assert f"saes/{SLUG}" in kept
    push(one, fill(one.activations(KEY), 5000))
    push(one, fill(one.sae("of-another-database")))
    fill(two.index(KEY), 4000)  # never pushed
    garbage, unknown = await removal.unneeded(sessionmaker, two)
    assert {(item.category, item.size) for item in garbage} == {("activations", 5002), ("indexes", 4002)}
    assert [item.path.name for item in unknown] == ["of-another-database"]
    removed = await removal.remove(sessionmaker, garbage, holder="seesae gc", store=two.store)
    assert (removed.size, removed.skipped) == (9004, ())
    assert stored(two) == kept | {"saes/of-another-database"}
    assert not two.index(KEY).exists()
    assert one.activations(KEY).exists()  # until that machine's own gc
    garbage, _ = await removal.unneeded(sessionmaker, one)
    assert [item.path for item in garbage] == [one.activations(KEY)]


async def test_what_another_machine_holds_is_skipped_and_what_a_run_uses_too(
    machine: Machine, sessionmaker: Sessions
) -> None:
    one, two = machine("one"), machine("two")
    push(one, fill(one.activations(KEY)))
    garbage, _ = await removal.unneeded(sessionmaker, two)
    async with mirror.try_hold(sessionmaker, one.store, one.activations(KEY)) as held:
        assert held
        removed = await removal.remove(sessionmaker, garbage, holder="seesae gc", store=two.store)
    assert [why for _, why in removed.skipped] == ["another machine holds it"]
    async with transaction(sessionmaker) as session:
        run = await runs.create_run(session, kind="index", title="Index", params={}, stages=[], created_by="ada")
        await runs.set_job(session, run.id, 1)
        await runs.note_use(session, run.id, f"activations/{KEY}")
    removed = await removal.remove(sessionmaker, garbage, holder="seesae gc", store=two.store)
    assert [why for _, why in removed.skipped] == [f"run {run.id} uses it"]
    assert stored(one) == {f"activations/{KEY}"}


async def test_files_of_what_was_deleted_go_from_the_store_by_a_machine_that_never_had_them(
    machine: Machine, sae: SaeDetail, sessionmaker: Sessions
) -> None:
    two = machine("two")
    async with transaction(sessionmaker) as session:
        gone = await delete(session, "sae", SLUG, two)
    size = two.bytes_of(gone.folders)
    removed = await removal.remove_deleted(sessionmaker, two)
    assert removed.size == size
    assert size
    assert stored(two) == set()
    async with sessionmaker() as session:
        assert await deletions.left_folders(session) == []


async def test_a_store_that_is_away_keeps_its_files_in_mind(
    machine: Machine, sae: SaeDetail, sessionmaker: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = machine("two")
    async with transaction(sessionmaker) as session:
        gone = await delete(session, "sae", SLUG, two)

    def away(*_: object) -> None:
        raise StoreAway("It does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "remove", away)
        removed = await removal.remove_deleted(sessionmaker, two)
    assert {why for _, why in removed.skipped} == {"It does not answer."}
    async with sessionmaker() as session:
        assert set(await deletions.left_folders(session)) >= {f"saes/{SLUG}"}
    await removal.remove_deleted(sessionmaker, two)
    assert stored(two) == set()
    assert gone.folders


async def test_the_limit_of_activation_caches_frees_this_machine_and_leaves_the_store(
    machine: Machine, sessionmaker: Sessions
) -> None:
    one = machine("one")
    push(one, fill(one.activations(KEY), 5000))
    wanted = one.activations("f" * 20)
    await removal.make_room(sessionmaker, one, [wanted], 4000, 6e-6)
    assert not one.activations(KEY).exists()
    assert stored(one) == {f"activations/{KEY}"}
    one.pull(one.activations(KEY))
    assert one.activations(KEY).is_dir()


async def test_doctor_says_whether_the_store_can_be_used_and_has_the_files(
    dictionary: Dictionary,
    machine: Machine,
    sae: SaeDetail,
    bucket: str,
    tmp_path: Path,
    database_url: str,
) -> None:
    changes = {"home": tmp_path / "two", "artifacts": bucket, "database_url": database_url}
    settings = dictionary.settings.model_copy(update=changes)

    async def found(settings: Settings) -> dict[str, Finding]:
        return {finding.subject: finding for finding in await asyncio.to_thread(lambda: list(examine(settings)))}

    findings = await found(settings)
    assert findings["Object store"].level == "ok"
    assert f"{bucket} can be read and written" in findings["Object store"].text
    assert "activation stores" in findings["Room"].text
    assert SLUG not in findings["SAEs"].text.replace(f"The model of {SLUG}", "")
    store = machine("one").store
    assert store is not None
    store.remove(store.root / "saes" / SLUG)
    assert f"The weights of {SLUG} are not" in (await found(settings))["SAEs"].text
    wrong = (await found(settings.model_copy(update={"artifacts": "s3://no-such-bucket"})))["Object store"]
    assert (wrong.level, wrong.text.startswith("s3://no-such-bucket is not there")) == ("fail", True)


@pytest.mark.parametrize("command", [["worker"], ["evaluate", "tiny"]])
def test_a_bucket_that_is_not_there_is_said_at_the_start(
    s3_server: str,
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
) -> None:
    connect(monkeypatch, s3_server)
    submitter_settings(tmp_path, database_url, monkeypatch, "s3://no-such-bucket/sae")
    done = subprocess.run([sys.executable, "-m", "app.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "s3://no-such-bucket/sae is not there" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
