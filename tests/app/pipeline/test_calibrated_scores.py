"""A text has one score: where a monitor is calibrated, checks it, scans it, and watches it being written."""

from collections.abc import AsyncIterator
from secrets import token_hex

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import select

from app.inference.server import create_app
from app.pipeline.monitor import MonitorParams
from app.pipeline.monitor_scan import MonitorScanParams
from app.pipeline.train import TrainParams
from app.queries.monitors import MonitorView
from app.queries.text_sets import list_texts
from app.runs.job_context import JobContext
from app.services.completions import CompletionWish, prepare
from app.services.inference import InferenceClient
from app.services.inference_messages import CompletionStart, Watched
from app.services.monitor_checks import CheckedText, check_texts
from app.services.monitors import candidate_of, download_file, find_monitor
from app.tables import MonitorScores
from sae_core.monitoring import FeatureDetector, Monitor, monitor_from_json
from tests.app.pipeline.running import run_to_end
from tests.text_sets import make_text_set

pytestmark = pytest.mark.slow


@pytest.fixture
async def inference(ctx: JobContext) -> AsyncIterator[InferenceClient]:
    own = {"inference_url": "http://inference", "inference_secret": SecretStr(token_hex(16))}
    settings = ctx.settings.model_copy(update=own)
    service = create_app(settings)
    client = InferenceClient(settings, transport=httpx.ASGITransport(service))
    yield client
    await client.close()
    await service.state.engine.dispose()


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
async def test_a_stored_text_scores_alike_everywhere(
    ctx: JobContext, training: TrainParams, inference: InferenceClient, architecture: str
) -> None:
    trained = TrainParams.model_validate({**training.model_dump(), "architecture": [architecture]})
    await run_to_end(ctx, "train", trained)
    words = {"happy": "a happy king at the fair", "sad": "a sad city in the winter"}
    async with ctx.sessions.begin() as session:
        pairs = [(story(words[mood].split(), number), mood) for number in range(240) for mood in words]
        moods = await make_text_set(session, texts=pairs)
        items = await list_texts(session, moods.id, label="sad")
    benign = [item.text for item in items if item.split == "calibration"]
    assert len(benign) >= 40

    for on in ("features", "direction", "probe"):
        made = MonitorParams(
            sae=f"tiny-llama-l1-{architecture}-64",
            name=on,
            positive="moods:happy",
            benign="moods:sad",
            fpr=0.1,
            pool="mean",
            on=on,
        )
        run = await run_to_end(ctx, "monitor", made)
        assert run.result is not None, run.error
        async with ctx.sessions() as session:
            view = await find_monitor(session, on)
            monitor = monitor_from_json(await download_file(session, view), on)
        assert monitor.calibration is not None and monitor.live is not None
        if isinstance(monitor.detector, FeatureDetector):
            assert monitor.detector.definition == ("decoupled" if architecture == "topk" else "exact")

        checked = await check(ctx, inference, view, benign)
        scores = np.array([one.score for one in checked])
        np.testing.assert_array_equal(np.sort(scores), monitor.calibration.scores)
        assert sum(one.alert for one in checked) == monitor.calibration.exceeding <= 0.1 * len(benign)

        scanned = await run_to_end(ctx, "monitor-scan", MonitorScanParams(monitor=on, textset="moods:sad"))
        of_scan = await scores_of(ctx, scanned.id)
        np.testing.assert_array_equal(of_scan[[item.split == "calibration" for item in items]], scores)

        watched = [await watch(ctx, inference, monitor, text) for text in benign]
        np.testing.assert_allclose([one.scores[on] for one in watched], scores, rtol=1e-6, atol=1e-6)
        alerts = [alert for one in watched for alert in one.alerts]
        assert len(alerts) == monitor.live.exceeding <= 0.1 * len(benign)
        assert {alert.threshold for alert in alerts} <= {monitor.live.threshold}
        assert alerts or on == "features"  # whose scores tie
        assert monitor.live.threshold >= monitor.threshold
        figures = candidate_of(view)["live"]
        assert (figures["threshold"], figures["exceeding"]) == (monitor.live.threshold, monitor.live.exceeding)
        assert figures["on_the_way"] == (monitor.live.scores > monitor.threshold).sum()
        if on == "probe":  # whose score is a mean, so that the first words of a text vary most
            assert monitor.live.threshold > monitor.threshold and figures["on_the_way"] > len(alerts)


def story(words: list[str], number: int) -> str:
    """Texts of one kind that differ from their first word on, in order and length."""
    start = number % len(words)
    return f"{number} {' '.join((words * 4)[start : start + 3 + number % 11])}"


async def check(ctx: JobContext, inference: InferenceClient, view: MonitorView, texts: list[str]) -> list[CheckedText]:
    async with ctx.sessions() as session:
        found = await check_texts(session, inference, view, texts)
        await session.commit()
    return found


async def scores_of(ctx: JobContext, run_id: int) -> np.ndarray:
    async with ctx.sessions() as session:
        query = select(MonitorScores.scores).where(MonitorScores.run_id == run_id).order_by(MonitorScores.part)
        return np.concatenate([np.array(part) for part in await session.scalars(query)])


async def watch(ctx: JobContext, inference: InferenceClient, monitor: Monitor, text: str) -> Watched:
    """What a monitor finds of a text when the endpoint has read it as a prompt."""
    wish = CompletionWish(
        model=monitor.model_name, text=text, monitors=[monitor.name], max_new_tokens=1, temperature=0, top_p=1, seed=0
    )
    async with ctx.sessions() as session:
        request = (await prepare(session, wish)).request
    events = [event async for event in inference.complete(request)]
    assert isinstance(events[0], CompletionStart) and events[0].watched is not None
    return events[0].watched
