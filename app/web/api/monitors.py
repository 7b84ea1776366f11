"""Monitors: make one, check texts with it, scan many, and its alerts."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response

from app.problems import documented
from app.queries import monitors as queries
from app.queries.monitors import AlertView, MonitorView
from app.queries.sql.pg_safe import MAX_INTEGER
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.monitor_checks import CheckedText, Text, check_texts
from app.services.monitors import (
    acknowledge,
    candidate_of,
    change_monitor,
    delete_monitor,
    download_file,
    drift_of,
    find_monitor,
)
from app.services.text_comparisons import side_name
from app.services.vectors import finite, pack_vector
from app.web.components.monitor_models import (
    AcknowledgeIn,
    AlertOut,
    AlertsOut,
    CalibrationOut,
    CandidateOut,
    CheckedOut,
    CheckIn,
    ChecksOut,
    DriftOut,
    FeatureValue,
    LiveOut,
    MonitorChange,
    MonitorFileOut,
    MonitorIn,
    MonitorOut,
    MonitorsOut,
    MonitorSummary,
    PositionOut,
    RunOut,
    ScanIn,
    TextsOfSet,
)
from app.web.dependencies import Actor, AppSettings, BeforeId, Inference, Session, Submitter

router = APIRouter(prefix="/api/v1/monitors", tags=["Monitors"])

MonitorId = Annotated[str, Path(description="Name or number of the monitor.", examples=["toxic-text"])]


@router.post("", summary="Make a monitor", status_code=202, responses=documented(404, 409))
async def post_monitor(
    body: MonitorIn, session: Session, settings: AppSettings, actor: Actor, response: Response
) -> RunOut:
    """Queue a run that trains candidates, compares them, and keeps the monitor; `Location` is the run."""
    given = body.model_dump(exclude_unset=True)
    for name in ("positive", "benign", "positive_elsewhere", "benign_elsewhere"):
        if isinstance(side := getattr(body, name), TextsOfSet):
            given[name] = side_name(side.set, side.label)
    if body.direction is not None:
        given["direction"] = pack_vector(finite(body.direction))
    return await _queue("monitor", given, session, settings, actor, response)


@router.get("", summary="All monitors", responses=documented())
async def get_monitors(
    session: Session, limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: BeforeId = None
) -> MonitorsOut:
    """Return monitors, newest first."""
    found, following = await queries.list_monitors(session, limit=limit, before=cursor)
    monitors = [MonitorSummary(**_summary(monitor)) for monitor in found]
    return MonitorsOut(monitors=monitors, next_cursor=str(following) if following else None)


@router.get("/{id}", summary="One monitor", responses=documented(404))
async def get_monitor(id: MonitorId, session: Session) -> MonitorOut:
    """Return a monitor: what it watches, how it did on held-out texts, and what does better or worse."""
    return await _out(session, await find_monitor(session, id))


@router.get("/{id}/download", summary="Download a monitor", responses=documented(404))
async def download(id: MonitorId, session: Session, response: Response) -> MonitorFileOut:
    """Return the file that `sae_core.monitoring` reads: it needs neither the SAE nor this site."""
    monitor = await find_monitor(session, id)
    response.headers["Content-Disposition"] = f'attachment; filename="{monitor.name}.json"'
    return MonitorFileOut.model_validate(await download_file(session, monitor))


@router.put("/{id}", summary="Change a monitor", responses=documented(403, 404, 409))
async def put_monitor(id: MonitorId, body: MonitorChange, session: Session, actor: Actor) -> MonitorOut:
    """Pause a monitor or let it run, keep texts of alerts or not, or use another candidate."""
    monitor = await find_monitor(session, id)
    return await _out(session, await change_monitor(session, monitor, actor=actor, **body.model_dump()))


@router.delete("/{id}", summary="Delete a monitor", status_code=204, responses=documented(403, 404))
async def remove_monitor(id: MonitorId, session: Session, actor: Actor) -> None:
    """Delete a monitor with its alerts, permanently."""
    await delete_monitor(session, await find_monitor(session, id), actor=actor)


@router.post("/{id}/check", summary="Check texts", responses=documented(404, 409, 413, 503))
async def check(id: MonitorId, body: CheckIn, session: Session, inference: Inference) -> ChecksOut:
    """Score texts with the live model. Texts are not kept, unless one alerts and the monitor keeps texts."""
    monitor = await find_monitor(session, id)
    texts: list[Text] = [*body.texts] if body.texts else [body.chat or body.text or ""]
    found = await check_texts(session, inference, monitor, texts)
    return ChecksOut(monitor=monitor.name, results=[_checked(text) for text in found])


@router.post("/{id}/scan", summary="Scan many texts", status_code=202, responses=documented(403, 404, 409))
async def scan(
    id: MonitorId, body: ScanIn, session: Session, settings: AppSettings, actor: Submitter, response: Response
) -> RunOut:
    """Queue a run that scores a text set or a file; `Location` is the run."""
    monitor = await find_monitor(session, id)
    given = {"monitor": monitor.name, **body.model_dump(exclude_none=True)}
    if isinstance(body.textset, TextsOfSet):
        given["textset"] = side_name(body.textset.set, body.textset.label)
    return await _queue("monitor-scan", given, session, settings, actor, response)


@router.get("/{id}/alerts", summary="Alerts of a monitor", responses=documented(404))
async def get_alerts(
    id: MonitorId,
    session: Session,
    run: Annotated[int | None, Query(ge=1, le=MAX_INTEGER, description="Only those of this scan.")] = None,
    acknowledged: Annotated[Literal["no"] | None, Query(description="Only those that nobody has acknowledged.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next_cursor` of the previous page.")] = None,
) -> AlertsOut:
    """Return alerts, newest first."""
    monitor = await find_monitor(session, id)
    found, following = await queries.list_alerts(
        session, monitor.id, limit=limit, before=cursor, run_id=run, unacknowledged=acknowledged == "no"
    )
    return AlertsOut(alerts=[_alert(alert) for alert in found], next_cursor=str(following) if following else None)


@router.post("/{id}/alerts/{alert}/acknowledge", summary="Acknowledge an alert", responses=documented(403, 404))
async def acknowledge_alert(
    id: MonitorId,
    alert: Annotated[int, Path(ge=1, le=2**63 - 1)],
    body: AcknowledgeIn,
    session: Session,
    actor: Actor,
) -> AlertOut:
    """Say that you have seen an alert. The first who does so is noted."""
    monitor = await find_monitor(session, id)
    return _alert(await acknowledge(session, monitor, alert, actor=actor, note=body.note))


async def _queue(
    kind: str, given: Mapping[str, Any], session: Any, settings: Any, actor: Any, response: Response
) -> RunOut:
    spec = spec_of(kind)
    run = await request_run(session, spec, parse_params(spec, given), settings=settings, actor=actor)
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return RunOut(run=run.id, state=run.state)


def _summary(monitor: MonitorView) -> dict[str, Any]:
    names = set(MonitorSummary.model_fields) - {"sae_state", "model_deleted", "on"}
    return {name: getattr(monitor, name) for name in names} | {
        "sae_state": monitor.sae_state,
        "model_deleted": monitor.model_id is None,
        "on": monitor.on,
    }


async def _out(session: Any, monitor: MonitorView) -> MonitorOut:
    figures, used = monitor.figures, candidate_of(monitor)
    candidates = [_candidate(one) for one in figures["candidates"]]
    drift = await drift_of(session, monitor)
    return MonitorOut(
        **_summary(monitor),
        features=used["features"],
        positive=figures["positive"],
        benign=figures["benign"],
        elsewhere=figures["elsewhere"],
        calibration=CalibrationOut(**used["calibration"]),
        live=_live(used),
        test=_without_roc(used["test"]),
        out_of_distribution=used["out_of_distribution"] and _without_roc(used["out_of_distribution"]),
        baselines=[out for out, one in zip(candidates, figures["candidates"], strict=True) if one["baseline"]],
        candidates=candidates,
        cautions=used["cautions"],
        drift=None if drift is None else DriftOut(**asdict(drift), has_drifted=drift.has_drifted),
        keep_text=monitor.keep_text,
        notes=monitor.notes,
        run=monitor.run_id,
    )


def _candidate(one: Mapping[str, Any]) -> CandidateOut:
    test = one["test"]
    return CandidateOut(
        **{name: one[name] for name in ("name", "title", "runs", "validation_auroc", "threshold", "calibration")},
        live=_live(one),
        auroc=test["auroc"],
        auroc_interval=test["auroc_interval"],
        recall_at_fpr=test["recall_at_fpr"],
        test=dict(test),
        out_of_distribution=one["out_of_distribution"],
    )


def _live(candidate: Mapping[str, Any]) -> LiveOut | None:
    live = candidate.get("live")  # monitors from before there was one lack it
    return None if live is None else LiveOut(**live)


def _without_roc(performance: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in performance.items() if name != "roc"}


def _checked(text: CheckedText) -> CheckedOut:
    positions = [
        PositionOut(position=place, token=text.tokens[place], score=value)
        for place, value in enumerate(text.values)
        if value is not None
    ]
    return CheckedOut(
        score=text.score,
        threshold=text.threshold,
        alert=text.alert,
        alert_id=text.alert_id,
        positions=positions,
        features=[FeatureValue(feature=feature, activation=value) for feature, value in text.features],
        probe_score=text.probe_score,
        probe_threshold=text.probe_threshold,
    )


def _alert(alert: AlertView) -> AlertOut:
    own = {name: getattr(alert, name) for name in AlertOut.model_fields if name != "run"}
    return AlertOut(**own, run=alert.run_id)
