"""Metrics of monitors, from the scores that are stored: they are the same for every web process."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.queries.monitors import monitor_totals


class _Totals(Collector):
    def __init__(self, rows: list[tuple[str, str, int, int, float]]) -> None:
        self._rows = rows

    def collect(self) -> list[Metric]:
        """Return texts, alerts and summed scores, by monitor and by where the texts came from."""
        labels = ["monitor", "source"]
        texts = CounterMetricFamily("seesae_monitor_texts", "Texts that a monitor scored.", labels=labels)
        alerts = CounterMetricFamily("seesae_monitor_alerts", "Texts above its threshold.", labels=labels)
        scores = CounterMetricFamily("seesae_monitor_score_sum", "Sum of its scores, which may fall.", labels=labels)
        for name, source, scored, fired, total in self._rows:
            texts.add_metric([name, source], scored)
            alerts.add_metric([name, source], fired)
            scores.add_metric([name, source], total)
        return [texts, alerts, scores]


async def monitor_metrics(sessions: async_sessionmaker[AsyncSession]) -> str:
    """Return the metrics in Prometheus' text format; nothing while the database cannot be asked."""
    try:
        async with sessions() as session:
            rows = await monitor_totals(session)
    except (OSError, SQLAlchemyError):
        return ""
    registry = CollectorRegistry()
    registry.register(_Totals(rows))
    return generate_latest(registry).decode()
