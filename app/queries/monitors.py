"""Monitors, the scores that they gave, and their alerts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import and_, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.errors import Conflict, NotFound
from app.queries.activity import ACKNOWLEDGED, Event, add_activity, add_alerts
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import clean_json, clean_text
from app.tables import Activity, MonitorAlert, MonitorScores, Person, Sae, SavedMonitor

AlertSource = Literal["check", "scan", "live"]


@dataclass(frozen=True, slots=True)
class MonitorView:
    """A monitor without its vectors; `figures` is as `app.services.monitor_figures` defines it.

    `sae_id` is None once its SAE was deleted, and `sae_now` is then None or, after a retraining, another hash.
    """

    id: int
    name: str
    notes: str
    sae_id: int | None
    sae: str
    sae_sha256: str
    sae_now: str | None
    model_id: int | None
    model: str
    state: str
    candidate: str
    threshold: float
    fpr: float
    tokens: str
    pool: str
    keep_text: bool
    figures: Mapping[str, Any]
    owner_id: int
    owner: str
    run_id: int | None
    created_at: datetime
    checked: int
    """Texts that it scored since it was made."""
    alerts: int
    unacknowledged: int
    last_alert: datetime | None

    @property
    def sae_state(self) -> Literal["there", "deleted", "retrained"]:
        """What became of the SAE whose features it has; it runs in any case, from its own directions."""
        if self.sae_now == self.sae_sha256:
            return "there"
        return "deleted" if self.sae_now is None else "retrained"

    @property
    def on(self) -> Literal["features", "direction", "probe"]:
        """The detector, in words."""
        if self.candidate.startswith("feature"):
            return "features"
        return "direction" if self.candidate in ("diffmean", "direction-given") else "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMonitor:
    """A monitor to store."""

    name: str
    sae_id: int
    sae: str
    sae_sha256: str
    model_id: int
    model: str
    candidate: str
    threshold: float
    fpr: float
    tokens: str
    pool: str
    keep_text: bool
    figures: Mapping[str, Any]
    files: Mapping[str, Any]
    owner_id: int
    run_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAlert:
    """A text above the threshold; `text` is None where the monitor keeps none."""

    score: float
    threshold: float
    source: AlertSource
    run_id: int | None
    place: str
    sha256: str
    text: str | None
    tokens: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class AlertView:
    """An alert; `acknowledged_by` is a name."""

    id: int
    score: float
    threshold: float
    source: str
    run_id: int | None
    place: str
    sha256: str
    text: str | None
    tokens: Sequence[Mapping[str, Any]]
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    note: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DayRate:
    """Texts and alerts of a monitor on one day."""

    day: datetime
    texts: int
    alerts: int


async def put_monitor(session: AsyncSession, new: NewMonitor) -> bool:
    """Store a monitor; False if another run made one of this name. A run that is repeated changes nothing."""
    row = {name: getattr(new, name) for name in NewMonitor.__slots__}
    row |= {"figures": clean_json(new.figures), "files": clean_json(new.files)}
    made = await session.scalar(insert(SavedMonitor).values(row).on_conflict_do_nothing().returning(SavedMonitor.id))
    if made is not None:
        await add_activity(session, Event(new.owner_id, "monitor made", monitor_id=made, monitor=new.name))
        return True
    of_run = select(SavedMonitor.id).where(SavedMonitor.name == new.name, SavedMonitor.run_id == new.run_id)
    return await session.scalar(of_run) is not None


async def get_monitor(session: AsyncSession, name: str) -> MonitorView | None:
    """Return a monitor."""
    row = (await session.execute(_MONITORS.where(SavedMonitor.name == name))).one_or_none()
    return None if row is None else _view(*row)


async def get_monitor_by_id(session: AsyncSession, monitor_id: int) -> MonitorView | None:
    """Return a monitor."""
    row = (await session.execute(_MONITORS.where(SavedMonitor.id == monitor_id))).one_or_none()
    return None if row is None else _view(*row)


async def list_monitors(
    session: AsyncSession, *, limit: int, before: int | None = None
) -> tuple[list[MonitorView], int | None]:
    """Return the newest monitors and where the next page begins; those older than the monitor `before`."""
    query = _MONITORS.order_by(SavedMonitor.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(SavedMonitor.id < before)
    found, more = one_page([_view(*row) for row in await session.execute(query)], limit)
    return found, found[-1].id if more else None


async def monitors_of_model(session: AsyncSession, model_id: int) -> int:
    """Return the number of monitors that run on a model."""
    return await session.scalar(select(func.count()).where(SavedMonitor.model_id == model_id)) or 0


async def monitor_file(session: AsyncSession, monitor_id: int, candidate: str) -> dict[str, Any] | None:
    """Return the file of one candidate, None if it has none."""
    query = select(SavedMonitor.files[candidate]).where(SavedMonitor.id == monitor_id)
    file: dict[str, Any] | None = await session.scalar(query)
    return file


async def change_monitor(session: AsyncSession, monitor_id: int, **values: Any) -> None:
    """Change columns of a monitor."""
    await session.execute(update(SavedMonitor).where(SavedMonitor.id == monitor_id).values(values))


async def delete_monitor(session: AsyncSession, monitor_id: int) -> None:
    """Delete a monitor with its alerts."""
    await session.execute(delete(SavedMonitor).where(SavedMonitor.id == monitor_id))


async def add_scores(
    session: AsyncSession,
    monitor_id: int,
    scores: Sequence[float],
    alerts: Sequence[NewAlert],
    *,
    source: AlertSource,
    run_id: int | None = None,
    part: int | None = None,
    candidate: str | None = None,
) -> list[int]:
    """Store scores of some texts with their alerts, and return the alerts' ids; a part of a scan is stored once.

    The alerts are told to open pages and webhooks in the same transaction. Their texts are left out where the monitor
    keeps none by now.

    Raises:
        NotFound: the monitor was deleted, perhaps while it scored the texts.
        Conflict: it has another candidate by now than `candidate`, which scored them.
    """
    now = select(SavedMonitor.keep_text, SavedMonitor.candidate).where(SavedMonitor.id == monitor_id)
    row_now = (await session.execute(now.with_for_update(read=True, key_share=True))).one_or_none()
    if row_now is None:
        raise NotFound("The monitor was deleted in the meantime, so it scores nothing any more.")
    keeps = row_now.keep_text
    if candidate not in (None, row_now.candidate):
        raise Conflict("The monitor was given another candidate in the meantime. Score the texts again.")
    row = {
        "monitor_id": monitor_id,
        "source": source,
        "run_id": run_id,
        "part": part,
        "scores": list(scores),
        "alerts": len(alerts),
    }
    stored = insert(MonitorScores).values(row).on_conflict_do_nothing().returning(MonitorScores.id)
    if await session.scalar(stored) is None or not alerts:
        return []
    rows = [
        {name: getattr(alert, name) for name in NewAlert.__slots__}
        | {
            "monitor_id": monitor_id,
            "place": clean_text(alert.place),
            "text": clean_text(alert.text) if keeps and alert.text is not None else None,
            "tokens": clean_json([token if keeps else _without_text(token) for token in alert.tokens]),
        }
        for alert in alerts
    ]
    ids = list(await session.scalars(insert(MonitorAlert).values(rows).returning(MonitorAlert.id)))
    await add_alerts(session, monitor_id, ids)
    return ids


def _without_text(token: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in token.items() if name != "text"}


async def list_alerts(
    session: AsyncSession,
    monitor_id: int,
    *,
    limit: int,
    before: int | None = None,
    run_id: int | None = None,
    unacknowledged: bool = False,
) -> tuple[list[AlertView], int | None]:
    """Return the newest alerts and where the next page begins.

    Args:
        session: its transaction.
        monitor_id: whose alerts.
        limit: most alerts.
        before: only those older than this alert.
        run_id: only those of this scan.
        unacknowledged: only those that nobody has acknowledged.
    """
    query = _ALERTS.where(MonitorAlert.monitor_id == monitor_id).order_by(MonitorAlert.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(MonitorAlert.id < before)
    if run_id is not None:
        query = query.where(MonitorAlert.run_id == run_id)
    if unacknowledged:
        query = query.where(MonitorAlert.acknowledged_by.is_(None))
    found, more = one_page([_alert(*row) for row in await session.execute(query)], limit)
    return found, found[-1].id if more else None


async def newest_alert(session: AsyncSession, monitor_id: int) -> int:
    """Return the id of a monitor's newest alert, 0 if it has none."""
    return await session.scalar(select(func.max(MonitorAlert.id)).where(MonitorAlert.monitor_id == monitor_id)) or 0


async def count_alerts_after(session: AsyncSession, monitor_id: int, after: int) -> int:
    """Return how many alerts a monitor has that are newer than the alert `after`."""
    query = select(func.count()).where(MonitorAlert.monitor_id == monitor_id, MonitorAlert.id > after)
    return await session.scalar(query) or 0


async def acknowledge(session: AsyncSession, monitor_id: int, alert_id: int, person_id: int, note: str) -> bool:
    """Note who has seen an alert; False if the monitor has no such alert, or somebody has acknowledged it."""
    changed = (
        update(MonitorAlert)
        .where(
            MonitorAlert.id == alert_id,
            MonitorAlert.monitor_id == monitor_id,
            MonitorAlert.acknowledged_by.is_(None),
        )
        .values(acknowledged_by=person_id, acknowledged_at=func.now(), note=clean_text(note))
        .returning(MonitorAlert.id)
    )
    return await session.scalar(changed) is not None


async def get_alert(session: AsyncSession, monitor_id: int, alert_id: int) -> AlertView | None:
    """Return an alert of a monitor."""
    query = _ALERTS.where(MonitorAlert.monitor_id == monitor_id, MonitorAlert.id == alert_id)
    row = (await session.execute(query)).one_or_none()
    return None if row is None else _alert(*row)


async def strongest_alerts(session: AsyncSession, activity_id: int, *, limit: int) -> list[AlertView]:
    """Return the alerts that an act tells of, or the one that it was done to, the strongest first."""
    told = or_(
        MonitorAlert.activity_id == Activity.id,
        and_(Activity.act == ACKNOWLEDGED, MonitorAlert.id == Activity.subject),
    )
    query = _ALERTS.join(Activity, told).where(Activity.id == activity_id)
    rows = await session.execute(query.order_by(MonitorAlert.score.desc(), MonitorAlert.id).limit(limit))
    return [_alert(*row) for row in rows]


async def list_parts(session: AsyncSession, run_id: int) -> set[int]:
    """Return the parts of a scan that are stored."""
    found = await session.scalars(select(MonitorScores.part).where(MonitorScores.run_id == run_id))
    return {part for part in found if part is not None}


async def totals_of_run(session: AsyncSession, run_id: int) -> tuple[int, int]:
    """Return how many texts a scan scored, and how many alerted."""
    sums = func.sum(func.cardinality(MonitorScores.scores)), func.sum(MonitorScores.alerts)
    texts, alerts = (await session.execute(select(*sums).where(MonitorScores.run_id == run_id))).one()
    return texts or 0, alerts or 0


async def recent_scores(session: AsyncSession, monitor_id: int, *, limit: int) -> list[float]:
    """Return the newest scores of scans and live answers, at most `limit`, in no particular order.

    Texts that somebody checks are chosen to try the monitor, so they say nothing of what it watches.
    """
    is_watched = MonitorScores.source.in_(("scan", "live"))
    query = select(MonitorScores.scores).where(MonitorScores.monitor_id == monitor_id, is_watched)
    found: list[float] = []
    for scores in await session.scalars(query.order_by(MonitorScores.id.desc()).limit(limit)):
        found += scores[: limit - len(found)]
        if len(found) >= limit:
            break
    return found


async def rates_by_day(session: AsyncSession, monitor_id: int, *, days: int = 30) -> list[DayRate]:
    """Return texts and alerts of the newest days on which there were any, oldest first."""
    day = func.date_trunc("day", MonitorScores.at)
    query = (
        select(day, func.sum(func.cardinality(MonitorScores.scores)), func.sum(MonitorScores.alerts))
        .where(MonitorScores.monitor_id == monitor_id)
        .group_by(day)
        .order_by(day.desc())
        .limit(days)
    )
    return [DayRate(*row) for row in await session.execute(query) if row[1]][::-1]


async def monitor_totals(session: AsyncSession) -> list[tuple[str, str, int, int, float]]:
    """Return for each monitor and source the numbers of texts and alerts, and the sum of scores, for metrics."""
    return [tuple(row) for row in await session.execute(_TOTALS)]


_TOTALS = text("""
SELECT monitor.name, source, sum(cardinality(scores))::bigint, sum(alerts)::bigint,
    sum((SELECT coalesce(sum(score), 0) FROM unnest(scores) AS score))
FROM monitor_scores JOIN monitor ON monitor.id = monitor_id GROUP BY monitor.name, source ORDER BY monitor.name, source
""")


def _total(column: Any, table: Any) -> Any:
    return select(column).where(table.monitor_id == SavedMonitor.id).correlate(SavedMonitor).scalar_subquery()


_MONITORS = (
    select(
        SavedMonitor,
        Person.name.label("owner"),
        Sae.weights_sha256,
        func.coalesce(_total(func.sum(func.cardinality(MonitorScores.scores)), MonitorScores), 0),
        _total(func.count(), MonitorAlert),
        _total(func.count().filter(MonitorAlert.acknowledged_by.is_(None)), MonitorAlert),
        _total(func.max(MonitorAlert.created_at), MonitorAlert),
    )
    .join(Person, Person.id == SavedMonitor.owner_id)
    .outerjoin(Sae, Sae.slug == SavedMonitor.sae)
)

_BY = aliased(Person)
_ALERTS = select(MonitorAlert, _BY.name).outerjoin(_BY, _BY.id == MonitorAlert.acknowledged_by)


def _view(row: SavedMonitor, owner: str, sae_now: str | None, *seen: Any) -> MonitorView:
    own = {
        name: getattr(row, name)
        for name in MonitorView.__slots__
        if name not in ("owner", "sae_now", "checked", "alerts", "unacknowledged", "last_alert")
    }
    checked, alerts, unacknowledged, last = seen
    return MonitorView(
        **own,
        owner=owner,
        sae_now=sae_now,
        checked=checked,
        alerts=alerts,
        unacknowledged=unacknowledged,
        last_alert=last,
    )


def _alert(row: MonitorAlert, acknowledged_by: str | None) -> AlertView:
    own = {name: getattr(row, name) for name in AlertView.__slots__ if name != "acknowledged_by"}
    return AlertView(**own, acknowledged_by=acknowledged_by)
