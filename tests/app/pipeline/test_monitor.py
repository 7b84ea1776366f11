"""A monitor is made, its figures are recomputed, and it scores texts alike by a check and by a scan."""

import base64

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from app.errors import Conflict, NotFound, Unprocessable
from app.pipeline.monitor import MonitorParams
from app.pipeline.monitor_scan import MonitorScanParams
from app.pipeline.scanned_texts import PART
from app.pipeline.train import TrainParams
from app.queries import monitors as queries
from app.queries import runs
from app.queries.activity import list_activity
from app.queries.sql.visibility import NOBODY
from app.queries.text_sets import list_texts
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.services.monitors import drift, drift_of, find_monitor, texts_needed, usable_file
from app.services.vectors import pack_vector
from sae_core.models import load_model
from sae_core.monitoring import drift as drift_of_core
from sae_core.monitoring import monitor_from_json, score_texts
from sae_core.monitoring import texts_needed as needed_of_core
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.text_sets import make_text_set

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
PARAMS = MonitorParams(sae=SAE, name="happy", positive="moods:happy", benign="moods:sad", fpr=0.1)


async def test_a_monitor_is_made_and_scans(ctx: JobContext, training: TrainParams) -> None:
    await run_to_end(ctx, "train", training)
    words = {"happy": "a happy king at the fair", "sad": "a sad city in the winter"}
    async with ctx.sessions.begin() as session:
        texts = [(f"{words[mood]}, {number} of them", mood) for number in range(240) for mood in words]
        moods = await make_text_set(session, texts=texts)
        await make_text_set(session, "few", texts[:30])
        await make_text_set(session, "mixed", [(text.upper(), mood) for text, mood in texts if mood == "sad"])

    def asked(**changes: object) -> MonitorParams:
        return MonitorParams.model_validate({**PARAMS.model_dump(), **changes})

    for changes, message in (
        ({"fpr": 0.01}, "it takes 299, which a set of about 1,495 benign texts has. Or ask for a rate of"),
        ({"benign": "moods:happy"}, "a monitor needs two kinds"),
        ({"benign": "moods:angry"}, "no text with the label “angry”. Its labels are happy, sad"),
        ({"positive": "few:happy"}, "positive texts are too few for"),
        ({"positive": "mixed"}, "0 positive texts .* 240 that are both positive and benign were left out"),
        ({"features": (64,)}, "has no feature 64: its features are 0 to 63"),
    ):
        with pytest.raises(Unprocessable, match=message):
            await submit(ctx, "monitor", asked(**changes))
    direction = np.linspace(-1, 1, 32)
    with pytest.raises(Unprocessable, match=f"The direction has 31 numbers, and {SAE} reads 32 at resid_post.1"):
        await submit(ctx, "monitor", asked(direction=pack_vector(direction[1:])))
    for changes, message in (
        ({"direction": "AAAA"}, "not a direction"),
        ({"direction": pack_vector([0.0] * 32)}, "zero everywhere"),
        ({"direction": pack_vector([*direction[1:], np.inf])}, "number 31 is inf"),
        ({"direction": pack_vector(direction), "on": "probe"}, "Leave one of them out"),
        ({"direction": pack_vector(direction), "features": (3,)}, "Leave one of them out"),
    ):
        with pytest.raises(ValidationError, match=message):
            asked(**changes)
    own = asked(name="own", direction=pack_vector(direction), pool="ema")
    pointed = await run_to_end(ctx, "monitor", own)
    assert pointed.result is not None and pointed.result["candidate"] == "direction-given"
    async with ctx.sessions() as session:
        view = await find_monitor(session, "own")
        watching = monitor_from_json(dict(await usable_file(session, view)), "own")
    assert view.on == "direction" and watching.pool == "ema" and watching.live is not None
    np.testing.assert_allclose(watching.detector.direction, direction, rtol=1e-6)  # type: ignore[union-attr]
    with pytest.raises(NotFound, match="nowhere"):
        await submit(ctx, "monitor", asked(positive="nowhere"))

    waiting = await submit(ctx, "monitor", PARAMS)
    with pytest.raises(Conflict, match=f"Run {waiting} is making another monitor named happy"):
        await submit(ctx, "monitor", asked(fpr=0.2))
    run = await run_to_end(ctx, "monitor", PARAMS)
    assert run.result is not None and run.id == waiting
    assert run.result["page"] == "/monitors/happy"
    with pytest.raises(Conflict, match="There is a monitor named happy already"):
        await submit(ctx, "monitor", asked(fpr=0.2))
    given = await run_to_end(ctx, "monitor", asked(name="given", features=(3, 5), keep_text=True))
    assert given.result is not None
    assert (given.result["candidate"], given.result["features"]) in (
        ("features-given", [3, 5]),
        ("features-given", [5, 3]),
    )

    async with ctx.sessions() as session:
        view = await find_monitor(session, "happy")
        assert await find_monitor(session, str(view.id)) == view
        file = await usable_file(session, view)
        items = await list_texts(session, moods.id)
    assert view.candidate == view.figures["best"] == view.figures["candidates"][0]["name"]
    monitor = monitor_from_json(dict(file), "happy")
    model = load_model(training.model, device="cpu")
    scores = np.array([read.scores[0].score for read in score_texts(model, [monitor], [item.text for item in items])])
    happy = np.array([item.label == "happy" for item in items])
    test = np.array([item.split == "test" for item in items])
    figures = view.figures["candidates"][0]
    assert figures["test"]["auroc"] == pytest.approx(roc_auc_score(happy[test], scores[test]), abs=1e-6)
    benign = scores[~happy & np.array([item.split == "calibration" for item in items])]
    exceeding = int((benign > view.threshold).sum())
    interval = binomtest(exceeding, len(benign)).proportion_ci(method="exact")
    assert figures["calibration"]["interval"] == pytest.approx([interval.low, interval.high])
    kept = np.frombuffer(base64.b64decode(file["calibration"]["scores"]))
    assert np.allclose(kept, np.sort(benign), atol=1e-4)
    recalled = (scores[happy & test] > view.threshold).mean()
    assert figures["test"]["recall"]["value"] == pytest.approx(recalled)

    scanned = await run_to_end(ctx, "monitor-scan", MonitorScanParams(monitor="happy", textset="moods"))
    assert scanned.result is not None
    assert (scanned.result["texts"], scanned.result["alerts"]) == (480, int((scores > view.threshold).sum()))
    async with ctx.sessions() as session:
        alerts, _ = await queries.list_alerts(session, view.id, limit=500)
        assert [alert.score for alert in alerts][::-1] == pytest.approx(scores[scores > view.threshold].tolist())
        assert all(alert.text is None and "text" not in alert.tokens[0] for alert in alerts)
        acts = await list_activity(session, reader=NOBODY, monitor_id=view.id, limit=100)
        assert sum(act.alerts or 0 for act in acts) == len(alerts)
        assert 2 <= len(acts) <= 4  # it was made, alerted, and alerted again within the minute
        found = await drift_of(session, await find_monitor(session, "happy"))
    assert found is not None
    assert monitor.calibration is not None
    own = drift_of_core(monitor.calibration, scores)
    assert (found.statistic, found.p_value, found.alert_p_value, found.has_drifted) == pytest.approx(
        (own.statistic, own.p_value, own.alert_p_value, own.has_drifted)
    )
    assert drift(kept.tolist(), kept.tolist(), view.threshold, view.fpr).p_value == pytest.approx(1.0)
    assert all(texts_needed(rate) == needed_of_core(rate) for rate in (0.5, 0.1, 0.05, 0.01, 0.001))

    # A scan that was stopped continues: the parts that are stored are not scored again.
    params = MonitorScanParams(monitor="given", textset="moods")
    number = await submit(ctx, "monitor-scan", params)
    async with ctx.sessions.begin() as session:
        other = await find_monitor(session, "given")
        await queries.add_scores(session, other.id, [-9.0] * PART, [], source="scan", run_id=number, part=0)
    await execute(ctx, number)
    async with ctx.sessions() as session:
        assert (await queries.totals_of_run(session, number))[0] == 480
        assert (await queries.recent_scores(session, other.id, limit=1000)).count(-9.0) == PART
        (alert, *_), _ = await queries.list_alerts(session, other.id, limit=1)
        assert alert.text is not None
        assert "".join(token["text"] for token in alert.tokens).strip() == alert.text
        assert alert.place.startswith("moods ")

    # Texts that changed since the scan began are not mixed with those that were scored.
    number = await submit(ctx, "monitor-scan", params)
    async with ctx.sessions.begin() as session:
        await runs.note_use(session, number, "texts of-before")
    with pytest.raises(Conflict, match="no longer those that this scan began with"):
        await execute(ctx, number)
    assert (await run_row(ctx, number)).state == "failed"
