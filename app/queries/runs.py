"""Runs: long work, its progress and its measurements."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, func, literal, literal_column, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.saes import SaeDetail
from app.queries.sql.locks import holds_run_lock, lock_until_commit
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import clean_json, clean_text, is_id
from app.tables import Run, RunMetric, RunUse, Sae, SaeClaim
from app.tables.runs import RunState as RunState

ACTIVE = ("queued", "running")
"""States of a run that has not ended."""
_MOST_ACTIVE = 200
"""Runs that pages look at: a queue may hold thousands."""
_RECENT = 20
_LEAST_SECONDS = 1.0
"""A stage that took less found its work done."""
StageState = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run; `done` of `total` `unit`s are finished, `seconds` were spent on it so far."""

    name: str
    title: str
    state: StageState = "waiting"
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0
    started_at: datetime | None = None
    expected: float | None = None
    """Seconds that it will take in all, by the speed of this machine; None while nobody knows."""


@dataclass(frozen=True, slots=True)
class RunView:
    """One run."""

    id: int
    kind: str
    title: str
    state: RunState
    params: Mapping[str, Any]
    stages: tuple[Stage, ...]
    result: Mapping[str, Any] | None
    error: str | None
    sae_id: int | None
    sae_slug: str | None
    job_id: int | None
    worker: str | None
    """Host and process that does the run, or did; None until one takes it."""
    queue_position: int | None
    """1 for the run that a worker takes next; None unless the run waits in the queue."""
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """Measurements at one step of a run; None for one that was not a number."""

    step: int
    values: Mapping[str, float | None]


async def create_run(
    session: AsyncSession,
    *,
    kind: str,
    title: str,
    params: Mapping[str, Any],
    stages: Sequence[Stage],
    created_by: str,
    sae_id: int | None = None,
) -> RunView:
    """Register a queued run."""
    created = await session.scalar(
        insert(Run)
        .values(
            kind=kind,
            title=clean_text(title),
            params=clean_json(params),
            stages=_stages_json(stages),
            created_by=created_by,
            sae_id=sae_id,
        )
        .returning(Run.id)
    )
    run = await get_run(session, created or 0)
    assert run is not None
    return run


async def set_job(session: AsyncSession, run_id: int, job_id: int) -> None:
    """Note which job of the queue does this run."""
    await session.execute(update(Run).where(Run.id == run_id).values(job_id=job_id))


async def set_sae(session: AsyncSession, run_id: int, sae_id: int) -> None:
    """Note which SAE this run is about, once there is one."""
    await session.execute(update(Run).where(Run.id == run_id).values(sae_id=sae_id))


async def get_run(session: AsyncSession, run_id: int) -> RunView | None:
    """The run with this id."""
    if not is_id(run_id):
        return None
    row = (await session.execute(_RUN.where(Run.id == run_id))).one_or_none()
    return None if row is None else _view(*row, await _position(session, row[0]))


async def list_runs(
    session: AsyncSession,
    *,
    state: RunState | None = None,
    kind: str | None = None,
    limit: int = 50,
    before: int | None = None,
) -> tuple[list[RunView], int | None]:
    """Return runs, newest first, and the `before` of the next page, None if this is the last."""
    query = _RUNS.order_by(Run.id.desc()).limit(limit + 1)
    if state is not None:
        query = query.where(Run.state == state)
    if kind is not None:
        query = query.where(Run.kind == clean_text(kind))
    if before is not None:
        query = query.where(Run.id < before)
    rows, more = one_page((await session.execute(query)).all(), limit)
    runs = [_view(*row) for row in rows]
    return runs, runs[-1].id if more else None


async def find_run(
    session: AsyncSession,
    kind: str,
    params: Mapping[str, Any],
    states: Sequence[RunState],
    *,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> RunView | None:
    """The newest run of this kind with exactly these parameters, in one of these states.

    `defaults` stand for parameters that a run lacks because it was submitted before they existed.
    """
    whole = literal(clean_json(defaults), JSONB).concat(Run.params)
    query = _RUNS.where(Run.kind == kind, whole == clean_json(params), Run.state.in_(states))
    row = (await session.execute(query.order_by(Run.id.desc()).limit(1))).one_or_none()
    return None if row is None else _view(*row)


async def claim_sae(session: AsyncSession, run_id: int, slug: str, key: str) -> int | None:
    """Note that a run makes the SAE of this name; or return the id of another run that does, and is under way.

    Runs of one `key` make the same SAE, and may both make it.
    """
    await lock_until_commit(session, f"name {slug}")
    other = (
        await session.execute(
            select(Run.id, Run.job_id)
            .join(SaeClaim, SaeClaim.run_id == Run.id)
            .where(SaeClaim.slug == slug, SaeClaim.key != key, Run.id != run_id, Run.state.in_(("queued", "running")))
        )
    ).one_or_none()
    # A command works on a run without a job. If it is killed, the run stays marked as running.
    if other is not None and (other.job_id is not None or await holds_run_lock(session, other.id)):
        return int(other.id)
    new = insert(SaeClaim).values(slug=slug, key=key, run_id=run_id)
    await session.execute(
        new.on_conflict_do_update(
            index_elements=["slug"], set_={"key": new.excluded.key, "run_id": new.excluded.run_id}
        )
    )
    return None


async def note_use(session: AsyncSession, run_id: int, *subjects: str) -> None:
    """Note what a run uses (`app.tables.runs.RunUse`): it is not deleted while the run is under way."""
    if subjects:
        rows = [{"run_id": run_id, "subject": subject} for subject in sorted(set(subjects))]
        await session.execute(insert(RunUse).values(rows).on_conflict_do_nothing())


async def uses_of(session: AsyncSession, run_id: int) -> set[str]:
    """Return what was noted with `note_use`."""
    return set(await session.scalars(select(RunUse.subject).where(RunUse.run_id == run_id)))


async def list_active(session: AsyncSession) -> list[RunView]:
    """The runs that are under way, then those that wait, newest first; a long queue is cut off."""
    # Literal, because the planner must see that the partial index covers them.
    states: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in ACTIVE]
    query = _RUNS.where(Run.state.in_(states)).order_by(Run.state == "queued", Run.id.desc()).limit(_MOST_ACTIVE)
    return [_view(*row) for row in await session.execute(query)]


async def list_without_job(session: AsyncSession) -> list[int]:
    """Ids of runs that have not ended and that no job of the queue continues: commands do them, or did.

    A command begins a run as soon as it has submitted it; one that waits for a minute has lost its command.
    """
    query = text("""
        SELECT id FROM run
        WHERE (state = 'running' OR (state = 'queued' AND updated_at < now() - interval '1 minute'))
          AND NOT EXISTS (SELECT FROM procrastinate_jobs AS job WHERE job.id = run.job_id)
        ORDER BY id
    """)
    return list(await session.scalars(query))


async def return_to_queue(session: AsyncSession, run_id: int) -> None:
    """Mark a running run as waiting, because its worker stopped and its job waits again."""
    await _change(session, run_id, ("running",), state="queued")


async def recent_params(session: AsyncSession, limit: int = 200) -> list[tuple[str, Mapping[str, Any]]]:
    """Kind and parameters of the newest runs that are done."""
    query = select(Run.kind, Run.params).where(Run.state == "done").order_by(Run.id.desc()).limit(limit)
    return [(kind, params) for kind, params in await session.execute(query)]


async def corpus_params(session: AsyncSession, sae: SaeDetail) -> Mapping[str, Any] | None:
    """Return the parameters of the newest run that indexed or trained an SAE; None where no run is known.

    A run of several SAEs is about one of them: so indexing is found by the names it was given too, and training by the
    number that the SAE's configuration has.
    """
    about = or_(Run.sae_id == sae.id, and_(Run.kind == "index", Run.params["sae"].contains([sae.slug])))
    trained = sae.config.get("run")
    if isinstance(trained, int):
        about = or_(about, Run.id == trained)
    query = select(Run.params).where(about, Run.state == "done", Run.kind.in_(("index", "train", "demo")))
    return await session.scalar(query.order_by(Run.id.desc()).limit(1))


async def start_run(session: AsyncSession, run_id: int, *, worker: str | None = None) -> bool:
    """Mark a run as running, also one that failed or was interrupted; False where it is done or cancelled."""
    return await _change(
        session,
        run_id,
        ("queued", "running", "failed"),
        state="running",
        worker=worker,
        error=None,
        finished_at=None,
        started_at=func.coalesce(Run.started_at, func.now()),
    )


async def requeue_run(session: AsyncSession, run_id: int) -> bool:
    """Mark a run that failed or was cancelled as queued again; False where it is done or under way."""
    return await _change(session, run_id, ("failed", "cancelled"), state="queued", error=None, finished_at=None)


async def newest_run(session: AsyncSession, sae_id: int, kind: str) -> RunView | None:
    """The newest run of this kind that is done and that is about this SAE."""
    about = select(func.max(Run.id)).where(Run.sae_id == sae_id, Run.kind == kind, Run.state == "done")
    newest = await session.scalar(about)
    return None if newest is None else await get_run(session, newest)


async def stage_speed(session: AsyncSession, model_id: int, stage: str) -> float | None:
    """Return what a stage did per second in the newest run of this model that spent time on it, None if none did."""
    query = select(Run.stages).join(Sae, Sae.id == Run.sae_id).where(Run.state == "done", Sae.model_id == model_id)
    for stages in await session.scalars(query.order_by(Run.id.desc()).limit(_RECENT)):
        for done in map(_stage, stages):
            if done.name == stage and done.done and done.seconds > _LEAST_SECONDS:
                return done.done / done.seconds
    return None


async def note_run(session: AsyncSession, run_id: int, note: str) -> None:
    """Keep one line on a run that waits, such as why a worker did not take it."""
    await _change(session, run_id, ("queued", "running"), state="queued", error=clean_text(note))


async def has_worker(session: AsyncSession) -> bool:
    """True if a worker has given a sign of life of late."""
    query = text("SELECT EXISTS (SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - interval '1 minute')")
    return bool(await session.scalar(query))


async def may_help(session: AsyncSession, run_id: int) -> bool:
    """True while a run is under way, and no run waits for a worker."""
    query = text("""
        SELECT EXISTS (SELECT FROM run WHERE id = :run_id AND state = 'running') AND NOT EXISTS (
            SELECT FROM procrastinate_jobs
            WHERE queue_name = 'runs' AND status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now())
        )
    """)
    return bool(await session.scalar(query, {"run_id": run_id}))


async def count_helpers(session: AsyncSession, run_id: int) -> int:
    """Count the workers that help a run."""
    query = text(
        "SELECT count(*) FROM procrastinate_jobs "
        "WHERE queue_name = 'help' AND status = 'doing' AND args ->> 'run_id' = :run_id"
    )
    return await session.scalar(query, {"run_id": str(run_id)}) or 0


async def update_progress(session: AsyncSession, run_id: int, stages: Sequence[Stage]) -> bool:
    """Replace a running run's stages; False where it is no longer running, so that the worker stops."""
    return await _change(session, run_id, ("running",), stages=_stages_json(stages))


async def append_metrics(session: AsyncSession, run_id: int, points: Sequence[MetricPoint]) -> None:
    """Add measurements to those of the same step: of other SAEs, or of the same by a run that then resumed."""
    by_step: dict[int, dict[str, Any]] = {}
    for point in points:
        by_step.setdefault(point.step, {}).update(clean_json(point.values))
    if not by_step:
        return
    new = insert(RunMetric).values([{"run_id": run_id, "step": s, "values": values} for s, values in by_step.items()])
    await session.execute(
        new.on_conflict_do_update(
            index_elements=["run_id", "step"],
            set_={"values": RunMetric.__table__.c["values"].op("||")(new.excluded["values"])},
        )
    )


async def metrics(session: AsyncSession, run_id: int, *, after_step: int = -1) -> list[MetricPoint]:
    """Measurements with a step above `after_step`, in order."""
    rows = await session.execute(
        select(RunMetric.step, RunMetric.__table__.c["values"])
        .where(RunMetric.run_id == run_id, RunMetric.step > after_step)
        .order_by(RunMetric.step)
    )
    return [MetricPoint(step, values) for step, values in rows]


async def finish_run(session: AsyncSession, run_id: int, result: Mapping[str, Any]) -> None:
    """Mark a running run as done."""
    await _change(session, run_id, ("running",), state="done", result=clean_json(result), finished_at=func.now())


async def fail_run(session: AsyncSession, run_id: int, error: str) -> None:
    """Mark a run as failed, with one line that says why; a stage that was running failed with it."""
    stages = await session.scalar(select(Run.stages).where(Run.id == run_id).with_for_update())
    failed = [{**stage, "state": "failed"} if stage["state"] == "running" else stage for stage in stages or []]
    await _change(
        session,
        run_id,
        ("queued", "running"),
        state="failed",
        error=clean_text(error),
        stages=failed,
        finished_at=func.now(),
    )


async def cancel_run(session: AsyncSession, run_id: int) -> bool:
    """Mark a queued or running run as cancelled; False where it had ended."""
    return await _change(session, run_id, ("queued", "running"), state="cancelled", finished_at=func.now())


# Literal, because the planner must see that the partial index covers it.
_WAITS: ColumnElement[bool] = Run.state == literal_column("'queued'")
_NUMBERED = (
    select(Run.id, func.row_number().over(order_by=Run.job_id).label("position"))
    .where(_WAITS, Run.job_id.is_not(None))
    .subquery()
)
_RUN = select(Run, Sae.slug).outerjoin(Sae, Sae.id == Run.sae_id).execution_options(populate_existing=True)
_RUNS = _RUN.add_columns(_NUMBERED.c.position).outerjoin(_NUMBERED, _NUMBERED.c.id == Run.id)


async def _position(session: AsyncSession, run: Run) -> int | None:
    """Return the place of one run in the queue; open pages ask once per second, so the whole queue is not numbered."""
    if run.state != "queued" or run.job_id is None:
        return None
    return await session.scalar(select(func.count()).where(_WAITS, Run.job_id <= run.job_id))


async def _change(session: AsyncSession, run_id: int, states: Collection[str], **values: Any) -> bool:
    """Change a run that is in one of these states; False where it is in another."""
    changed = await session.scalar(
        update(Run)
        .where(Run.id == run_id, Run.state.in_(states))
        .values(updated_at=func.now(), **values)
        .returning(Run.id)
        .execution_options(synchronize_session=False)
    )
    return changed is not None


def _stages_json(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    return [
        clean_json({**asdict(stage), "started_at": stage.started_at and stage.started_at.isoformat()})
        for stage in stages
    ]


def _stage(stored: Mapping[str, Any]) -> Stage:
    stage = Stage(**stored)
    started_at = stored["started_at"]
    return replace(stage, started_at=started_at and datetime.fromisoformat(started_at))


def _view(run: Run, sae_slug: str | None, queue_position: int | None) -> RunView:
    return RunView(
        id=run.id,
        kind=run.kind,
        title=run.title,
        state=run.state,
        params=run.params,
        stages=tuple(_stage(stage) for stage in run.stages),
        result=run.result,
        error=run.error,
        sae_id=run.sae_id,
        sae_slug=sae_slug,
        job_id=run.job_id,
        worker=run.worker,
        queue_position=queue_position,
        created_by=run.created_by,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        updated_at=run.updated_at,
    )
